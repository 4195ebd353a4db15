#include "compare/quant_step.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/block_quant.h"
#include "core/decode.h"

namespace paritrace {
namespace {

// Where a block keeps its codes. With all codes 0 and then all 1 the same scales decode to values one step apart: so the
// layouts of scales, which differ from type to type, are known to the decoder alone.
struct Codes {
  DType dtype;
  int begin, end;                   // bytes of the codes' low bits
  std::uint8_t ones;                // a byte of codes 1
  int high = 0, high_end = 0;       // bytes of further bits
  bool zero_is_minus_step = false;  // codes are no bit fields (five trits a byte): code 0 decodes to minus one step
};
constexpr Codes kCodes[] = {
    {DType::kQ4_0, 2, 18, 0x11},           {DType::kQ4_1, 4, 20, 0x11},
    {DType::kQ5_0, 6, 22, 0x11, 2, 6},     {DType::kQ5_1, 8, 24, 0x11, 4, 8},
    {DType::kQ8_0, 2, 34, 0x01},           {DType::kQ8_1, 4, 36, 0x01},
    {DType::kQ8_K, 4, 260, 0x01},          {DType::kQ2_K, 16, 80, 0x55},
    {DType::kQ3_K, 32, 96, 0x55, 0, 32},   {DType::kQ4_K, 16, 144, 0x11},
    {DType::kQ5_K, 48, 176, 0x11, 16, 48}, {DType::kQ6_K, 0, 128, 0x11, 128, 192},
    {DType::kTQ2_0, 0, 64, 0x55},          {DType::kTQ1_0, 0, 52, 0x00, 0, 0, true},
    {DType::kI2_S, 0, 32, 0x55},
};

const Codes* Find(DType dtype) {
  const auto* found = std::ranges::find(kCodes, dtype, &Codes::dtype);
  return found == std::end(kCodes) ? nullptr : found;
}

// Mantissa bits after the point, and the exponent of the smallest normal value.
struct FloatGrid {
  int bits, least;
};
FloatGrid GridOf(DType dtype) {
  switch (dtype) {
    case DType::kF16: return {10, -14};
    case DType::kBF16: return {7, -126};
    case DType::kF8E4M3: return {3, -6};
    case DType::kF8E5M2: return {2, -14};
    default: return {23, -126};
  }
}

void BlockSteps(const TensorView& tensor, std::int64_t begin, std::int64_t count, const Codes& codes, float* steps) {
  const DTypeInfo& info = Info(tensor.dtype);
  const BlockDecoder decode = FindBlockDecoder(tensor.dtype);
  const auto bytes = static_cast<std::size_t>(info.block_bytes);
  std::vector<std::byte> block(bytes);
  std::vector<float> zero(static_cast<std::size_t>(info.block_elements)), one(zero.size());
  const std::byte* at = tensor.bytes.data() + begin / info.block_elements * info.block_bytes;
  for (std::int64_t done = 0; done < count; done += info.block_elements, at += info.block_bytes) {
    std::memcpy(block.data(), at, bytes);
    const auto fill = [&](int from, int to, std::uint8_t value) {
      std::memset(block.data() + from, value, static_cast<std::size_t>(to - from));
    };
    fill(codes.high, codes.high_end, 0);
    fill(codes.begin, codes.end, 0);
    decode(block.data(), 1, zero.data());
    if (!codes.zero_is_minus_step) {
      fill(codes.begin, codes.end, codes.ones);
      decode(block.data(), 1, one.data());
    }
    for (std::size_t i = 0; i < zero.size(); ++i) {
      steps[done + static_cast<std::int64_t>(i)] = std::fabs(codes.zero_is_minus_step ? zero[i] : one[i] - zero[i]);
    }
  }
}

// How far the rounding of a scale to f16 may move a value. Simple types take their codes from the scale before it is rounded:
// each is off by its code times the scale's error. K-quants take them afterwards and lose only what lies beyond their range:
// `range` is the largest code times the largest inner scale.
struct ScaleError {
  DType dtype;
  float range;
  bool by_code;
};
constexpr ScaleError kScaleErrors[] = {
    {DType::kQ4_0, 8, true},        {DType::kQ4_1, 15, true},       {DType::kQ5_0, 16, true},
    {DType::kQ5_1, 31, true},       {DType::kQ8_0, 127, true},      {DType::kTQ1_0, 1, true},
    {DType::kTQ2_0, 1, true},       {DType::kQ2_K, 3 * 15, false},  {DType::kQ3_K, 4 * 32, false},
    {DType::kQ4_K, 15 * 63, false}, {DType::kQ5_K, 31 * 63, false}, {DType::kQ6_K, 32 * 128, false},
};

// Half a unit in the last place of a scale of that size.
float HalfUnit(float scale) {
  constexpr float kSmallestNormal = 0x1p-14F, kSmallest = 0x1p-25F;
  return scale < kSmallestNormal ? kSmallest : std::ldexp(1.0F, std::ilogb(scale) - 11);
}

}  // namespace

bool HasSteps(DType dtype) {
  return !IsBlockQuantised(dtype) || dtype == DType::kTernaryRows || Find(dtype) != nullptr;
}

void StepsOf(const TensorView& tensor, std::int64_t begin, std::int64_t count, const float* values, float* steps) {
  if (const Codes* codes = Find(tensor.dtype)) return BlockSteps(tensor, begin, count, *codes, steps);
  if (tensor.dtype == DType::kTernaryRows || (!Info(tensor.dtype).is_float)) {
    std::fill_n(steps, count, 1.0F);
    return;
  }
  if (IsBlockQuantised(tensor.dtype)) {
    std::fill_n(steps, count, 0.0F);
    return;
  }
  const FloatGrid grid = GridOf(tensor.dtype);
  const auto least = static_cast<std::uint32_t>(grid.least + 127), bits = static_cast<std::uint32_t>(grid.bits);
  for (std::int64_t i = 0; i < count; ++i) {
    // The exponent alone, as a float of its own; nothing below the smallest normal float is told apart.
    const std::uint32_t exponent = std::max(std::bit_cast<std::uint32_t>(values[i]) >> 23 & 0xffu, least);
    steps[i] = std::bit_cast<float>((exponent > bits ? exponent - bits : 1u) << 23);
  }
}

void SpreadsOf(const TensorView& tensor, std::int64_t begin, std::int64_t count, const float* values, float* spreads) {
  StepsOf(tensor, begin, count, values, spreads);
  const auto* scale = std::ranges::find(kScaleErrors, tensor.dtype, &ScaleError::dtype);
  if (scale == std::end(kScaleErrors)) return;
  float last = -1, unit = 0x1p-25F;
  for (std::int64_t i = 0; i < count; ++i) {
    const float step = spreads[i];
    if (scale->by_code && step != last) unit = HalfUnit(last = step);  // the same for a whole block
    const float code = scale->by_code && step > 0 ? std::fabs(values[i]) / step : scale->range;
    const float lost = 2 * unit * code;
    spreads[i] = std::sqrt(step * step + lost * lost);
  }
}

}  // namespace paritrace
