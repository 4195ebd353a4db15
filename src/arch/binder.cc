#include "arch/binder.h"

#include <fmt/format.h>

#include "core/error.h"

namespace paritrace {

TensorView RowsOf(const TensorView& tensor, std::int64_t first, const Shape& shape) {
  const std::int64_t width = shape.size() > 1 ? shape.back() : 1;
  const auto skipped = shape.size() > 1 ? ByteCount({first, width}, tensor.dtype) : ByteCount({first}, tensor.dtype);
  const auto size = ByteCount(shape, tensor.dtype);
  if (!skipped || !size || *skipped + *size > static_cast<std::int64_t>(tensor.bytes.size())) {
    throw InternalError(fmt::format("{}: rows from {} of {} are outside {}", tensor.name, first, ToString(shape),
                                    ToString(tensor.shape)));
  }
  TensorView rows = tensor;
  rows.shape = shape;
  rows.bytes = tensor.bytes.subspan(static_cast<std::size_t>(*skipped), static_cast<std::size_t>(*size));
  return rows;
}

const TensorView& Binder::Tensor(const std::string& name, const Shape& shape) const {
  const TensorView* tensor = source_.Find(name);
  if (tensor == nullptr)
    throw FormatError(source_.path(), fmt::format("tensor \"{}\"", name), ToString(shape), "no such tensor");
  if (tensor->shape != shape) {
    throw FormatError(source_.path(), fmt::format("tensor \"{}\"", name),
                      fmt::format("{} as the config says", ToString(shape)), ToString(tensor->shape));
  }
  return *tensor;
}

WeightId Binder::Add(const TensorView& tensor, const WeightPlace& place) {
  std::string name = tensor.name;
  if (place.expert != kAbsent) name += fmt::format(", expert {}", place.expert);
  return graph_.AddWeight(
      {.name = std::move(name), .tensor = tensor, .role = place.role, .layer = place.layer, .expert = place.expert});
}

WeightId Binder::Need(std::string_view role, int layer, const Shape& shape) {
  return Add(Tensor(name_(role, layer) + ".weight", shape), {std::string(role), layer});
}

WeightId Binder::Bias(std::string_view role, int layer, std::int64_t width) {
  const std::string name = name_(role, layer) + ".bias";
  if (source_.Find(name) == nullptr) return kAbsent;
  return Add(Tensor(name, {width}), {std::string(role) + ".bias", layer});
}

}  // namespace paritrace
