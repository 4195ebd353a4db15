// Turns stored values of any dtype into doubles or floats, block-quantised ones included.
// One place for the layout of every type, so that a reader, the comparer and the oracle cannot disagree on a value.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

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

// All ones if a < b, by arithmetic: g++ turns a "?:" around a float sum into a branch, and then no loop vectorises.
// The difference must fit in 31 bits.
[[nodiscard]] constexpr std::uint32_t MaskIfLess(std::uint32_t a, std::uint32_t b) {
  return static_cast<std::uint32_t>(static_cast<std::int32_t>(a - b) >> 31);
}

// Single-value conversions, round to nearest even; NaN stays NaN, overflow becomes infinity.
// Inline and free of branches: loops over them vectorise.
[[nodiscard]] inline float HalfToFloat(std::uint16_t bits) {
  const std::uint32_t shifted = (bits & 0x7fffu) << 13;  // exponent and mantissa where a float has them
  const std::uint32_t exponent = shifted & 0x0f800000u;
  std::uint32_t normal = shifted + (112u << 23);       // bias 15 -> 127
  normal += exponent == 0x0f800000u ? 112u << 23 : 0;  // infinity and NaN: the exponent stays full
  // Subnormal: give it the implied one and take it away as a float, which normalises. No subnormal float is ever an
  // operand, so this is exact and fast whatever the CPU does with those.
  const float subnormal = std::bit_cast<float>(shifted + (113u << 23)) - 0x1p-14f;
  const std::uint32_t small = MaskIfLess(exponent, 1);
  const std::uint32_t magnitude = (std::bit_cast<std::uint32_t>(subnormal) & small) | (normal & ~small);
  return std::bit_cast<float>(magnitude | (bits & 0x8000u) << 16);
}

[[nodiscard]] inline std::uint16_t FloatToHalf(float value) {
  const std::uint32_t all = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = all & 0x7fffffffu;
  // Adding just below half a unit of the tenth mantissa bit, plus that bit, rounds to even; a carry runs into the exponent.
  const std::uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1) - (112u << 23)) >> 13;
  // Below 2^-14 the sum with 0.5 rounds at the right bit: the unit of 0.5 as a float is that of a half's subnormals.
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  const std::uint32_t small = MaskIfLess(magnitude, 0x38800000u);   // 2^-14
  const std::uint32_t finite = MaskIfLess(magnitude, 0x477ff000u);  // 65520: from there on, infinity
  const std::uint32_t nan = MaskIfLess(0x7f800000u, magnitude);
  const std::uint32_t half = (subnormal & small) | (normal & ~small & finite) | (0x7c00u & ~finite) |
                             ((0x200u | (magnitude >> 13 & 0x3ffu)) & nan);
  return static_cast<std::uint16_t>(half | (all >> 16 & 0x8000u));
}

[[nodiscard]] inline float BFloatToFloat(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

[[nodiscard]] inline std::uint16_t FloatToBFloat(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
  const std::uint32_t quiet = bits >> 16 | 0x40u;  // rounding a NaN could carry it into infinity
  return static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

}  // namespace paritrace
