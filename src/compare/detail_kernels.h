// The inner loops of the detailed statistics (detail_stats.h): a histogram of exponents, and sums by channel.
#pragma once

#include <array>
#include <cstdint>

#include "core/dtype.h"

namespace paritrace {

// bins[k + 128]: pairs whose difference has an exponent k above the reference's, floor(log2|r-s|) - floor(log2|r|), where k
// is held between -127 and 127. bins[0]: equal pairs, and those closer than that or than 2^-126 altogether.
// A reference below 2^least_exponent, zero among them, counts as that: the smallest normal value of the type whose units
// are counted, below which values lie no closer together.
struct ExponentSums {
  std::array<std::int64_t, 256> bins{};
  std::int64_t sign_flips = 0;  // neither is zero nor subnormal, and the signs differ
  double max_scaled = 0;        // the largest |r-s| / 2^floor(log2|r|)
};

// Over a[0, count) and b[0, count), which must all be finite.
using ExponentKernel = void (*)(const void* a, const void* b, std::int64_t count, int least_exponent,
                                ExponentSums& sums);

// error[c] += (a-b)^2 and energy[c] += a^2 for c in [0, columns), over `rows` rows that lie `a_stride` and `b_stride` bytes apart.
using ChannelKernel = void (*)(const void* a, std::int64_t a_stride, const void* b, std::int64_t b_stride,
                               std::int64_t rows, std::int64_t columns, double* error, double* energy);

// nullptr where there is none: exponents for f32, f16 and bf16 in every mix; channels for those and f64.
[[nodiscard]] ExponentKernel FindExponentKernel(DType a, DType b);
[[nodiscard]] ChannelKernel FindChannelKernel(DType a, DType b);

// Any pair of values, one at a time: what the kernels are tested against, and the way for f64.
void AddExponent(double reference, double subject, int least_exponent, ExponentSums& sums);

}  // namespace paritrace
