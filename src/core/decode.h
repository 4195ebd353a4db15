// Turns stored values of any dtype into doubles or floats, block-quantised ones included.
// One place for the layout of every type, so that a reader, the comparer and the oracle cannot disagree on a value.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace paritrace {

// Decodes `count` values starting at flat index `begin` into `out`. For block types `begin` and `count` are multiples
// of the block. i64/u64 beyond 2^53 lose digits (compare them as integers where that matters).
// Errors: UsageError naming the dtype where no decoder exists yet; InternalError if the range is outside the tensor.
void DecodeF64(const TensorView& tensor, std::int64_t begin, std::int64_t count, double* out);

// The same, each value rounded to f32 (exact for every float type up to f32 and every ggml block type).
void DecodeF32(const TensorView& tensor, std::int64_t begin, std::int64_t count, float* out);

// All values, row-major.
[[nodiscard]] std::vector<double> DecodeAll(const TensorView& tensor);

// Single-value conversions, round to nearest even; NaN stays NaN, overflow becomes infinity.
[[nodiscard]] float HalfToFloat(std::uint16_t bits);
[[nodiscard]] std::uint16_t FloatToHalf(float value);
[[nodiscard]] float BFloatToFloat(std::uint16_t bits);
[[nodiscard]] std::uint16_t FloatToBFloat(float value);

}  // namespace paritrace
