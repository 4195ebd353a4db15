#include "core/tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace paritrace {

std::optional<std::int64_t> ElementCount(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t axis : shape) {
    if (axis < 0 || __builtin_mul_overflow(count, axis, &count)) return std::nullopt;
  }
  return count;
}

std::optional<std::int64_t> ByteCount(const Shape& shape, DType dtype) {
  const auto count = ElementCount(shape);
  if (!count) return std::nullopt;
  const DTypeInfo& info = Info(dtype);
  if (info.block_elements > 1 && (shape.empty() || shape.back() % info.block_elements != 0)) return std::nullopt;
  std::int64_t bytes = *count / info.block_elements;
  if (__builtin_mul_overflow(bytes, static_cast<std::int64_t>(info.block_bytes), &bytes)) return std::nullopt;
  // The one type with something beside its blocks: the tensor's scale, padded to 32 bytes.
  if (dtype == DType::kI2_S && __builtin_add_overflow(bytes, 32, &bytes)) return std::nullopt;
  return bytes;
}

std::string ToString(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

Shape WithoutLeadingOnes(const Shape& shape, std::size_t keep) {
  std::size_t first = 0;
  while (shape.size() - first > keep && shape[first] == 1) ++first;
  return Shape(shape.begin() + static_cast<std::ptrdiff_t>(first), shape.end());
}

}  // namespace paritrace
