// CopyContiguous of record_queue.h.
#include <cstring>

#include "core/error.h"
#include "trace/record_queue.h"

namespace paritrace {
namespace {

// One axis that is left after those that continue each other were joined. Stride in bytes.
struct Axis {
  std::int64_t size, stride;
};

template <typename Word>
void CopyRow(const std::byte* from, Axis axis, std::byte* out) {
  for (std::int64_t i = 0; i < axis.size; ++i)
    std::memcpy(out + i * static_cast<std::int64_t>(sizeof(Word)), from + i * axis.stride, sizeof(Word));
}

void CopyRow(const std::byte* from, Axis axis, std::int64_t width, std::byte* out) {
  if (axis.stride == width) {
    std::memcpy(out, from, static_cast<std::size_t>(axis.size * width));
    return;
  }
  switch (width) {
    case 1: return CopyRow<std::uint8_t>(from, axis, out);
    case 2: return CopyRow<std::uint16_t>(from, axis, out);
    case 4: return CopyRow<std::uint32_t>(from, axis, out);
    default: return CopyRow<std::uint64_t>(from, axis, out);
  }
}

std::byte* CopyAxes(const std::byte* from, const std::vector<Axis>& axes, std::size_t first, std::int64_t width,
                    std::byte* out) {
  const Axis axis = axes[first];
  if (first + 1 == axes.size()) {
    CopyRow(from, axis, width, out);
    return out + axis.size * width;
  }
  for (std::int64_t i = 0; i < axis.size; ++i) out = CopyAxes(from + i * axis.stride, axes, first + 1, width, out);
  return out;
}

}  // namespace

void CopyContiguous(const StridedTensor& tensor, std::byte* out) {
  const std::int64_t width = Info(tensor.dtype).block_bytes;
  const std::int64_t count = ElementCount(tensor.shape).value_or(0);
  if (count == 0) return;
  if (tensor.strides.empty()) {
    std::memcpy(out, tensor.data, static_cast<std::size_t>(count * width));
    return;
  }
  if (tensor.strides.size() != tensor.shape.size()) throw InternalError("one stride an axis");
  std::vector<Axis> axes;
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
    if (tensor.shape[i] == 1) continue;
    const Axis axis{tensor.shape[i], tensor.strides[i] * width};
    if (!axes.empty() && axes.back().stride == axis.size * axis.stride) {
      axes.back() = {axes.back().size * axis.size, axis.stride};
    } else {
      axes.push_back(axis);
    }
  }
  if (axes.empty()) axes.push_back({1, width});
  CopyAxes(tensor.data, axes, 0, width, out);
}

}  // namespace paritrace
