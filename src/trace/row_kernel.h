// The inner loop of a digest: one look at a row's values gives their energy and their part of the sketch.
#pragma once

#include <cstdint>

namespace paritrace {

// As AddToSketch of value_kernels.h, of values that need not be finite, and returns the sum of their squares. What is not
// finite, and what is up to `mask_bound` (NaN: nothing), counts as 0. The same bits on every CPU.
double AddRow(const float* values, std::int64_t column, std::int64_t count, double mask_bound, std::uint64_t block,
              std::int64_t width, double* buckets);
double AddRow(const double* values, std::int64_t column, std::int64_t count, double mask_bound, std::uint64_t block,
              std::int64_t width, double* buckets);

}  // namespace paritrace
