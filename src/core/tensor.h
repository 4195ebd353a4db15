// A tensor as the rest of the program sees it: a name, a type, a shape, and bytes that somebody else owns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace paritrace {

using Shape = std::vector<std::int64_t>;  // row-major, outermost first; {} is a scalar

// Number of values; nullopt if a dimension is negative or the product overflows int64.
[[nodiscard]] std::optional<std::int64_t> ElementCount(const Shape& shape);

// Bytes a tensor takes; nullopt on overflow, or if a block type's last axis is no multiple of its block.
[[nodiscard]] std::optional<std::int64_t> ByteCount(const Shape& shape, DType dtype);

// "[10, 64]"
[[nodiscard]] std::string ToString(const Shape& shape);

// Without leading axes of size 1: [1, 10, 64] -> [10, 64]. Keeps at least `keep` axes.
[[nodiscard]] Shape WithoutLeadingOnes(const Shape& shape, std::size_t keep = 2);

// Points into memory that outlives it (a mapped file). bytes.size() == ByteCount(shape, dtype): readers check it.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  std::span<const std::byte> bytes;

  [[nodiscard]] std::int64_t size() const { return ElementCount(shape).value_or(0); }
};

}  // namespace paritrace
