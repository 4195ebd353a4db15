// A computed tensor: always doubles, whatever arithmetic is emulated, so that rounding is explicit and never a side effect.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"

namespace paritrace {

struct Value {
  Shape shape;               // [tokens, features] or [heads, queries, keys]
  std::vector<double> data;  // row-major

  Value() = default;
  explicit Value(Shape dims)
      : shape(std::move(dims)), data(static_cast<std::size_t>(ElementCount(shape).value_or(0))) {}

  [[nodiscard]] std::int64_t cols() const { return shape.empty() ? 1 : shape.back(); }
  [[nodiscard]] std::int64_t rows() const { return cols() == 0 ? 0 : static_cast<std::int64_t>(data.size()) / cols(); }
  [[nodiscard]] std::span<double> row(std::int64_t index) {
    return {data.data() + index * cols(), static_cast<std::size_t>(cols())};
  }
  [[nodiscard]] std::span<const double> row(std::int64_t index) const {
    return {data.data() + index * cols(), static_cast<std::size_t>(cols())};
  }
};

// Reorders the lanes of each head of `head_dim` between half-split (i, i + d/2) and interleaved (2i, 2i + 1) order.
void ReorderHeads(Value& value, std::int64_t head_dim, bool to_interleaved);

}  // namespace paritrace
