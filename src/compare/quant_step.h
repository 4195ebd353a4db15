// How fine the grid is that a stored value lies on: the distance to the next code with the same scale. What a rounding to
// the nearest code may leave is half of it.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace paritrace {

// True where the steps are known exactly; types that look their values up in a table have none.
[[nodiscard]] bool HasSteps(DType dtype);

// Steps of values [begin, begin + count) of a tensor, as DecodeF32 counts them; for block types both are multiples of the
// block. Scalars: one unit in the last place of the value itself. Integers: 1. Types without steps: 0.
// Source of the layouts: ggml-common.h.
void StepsOf(const TensorView& tensor, std::int64_t begin, std::int64_t count, const float* values, float* steps);

// The same with what the rounding of a block's scale adds. Scales are f16: below 2^-14 they come in steps of 2^-24, so that rows
// of small weights (those of unused tokens, say) are rightly far off, or 0. Step and scale add up in quadrature.
void SpreadsOf(const TensorView& tensor, std::int64_t begin, std::int64_t count, const float* values, float* spreads);

}  // namespace paritrace
