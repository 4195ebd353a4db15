// The inner loop of a digest: one look at a row's values gives their energy and their part of the sketch.
#pragma once

#include <cstdint>

namespace paritrace {

// Adds a stretch of one row to a group's buckets, by the hashes of docs/trace-format.md, "Digests", and returns the sum of its
// squares. What is not finite, and what is up to `mask_bound` (NaN: nothing), counts as 0. The same bits on every CPU.
//   values   [count] of columns [column, column + count) of the row
//   block    index of the row's first block; block + column / 8 is that of the first value
//   buckets  [4, width], width a multiple of kBlockLanes
double AddRow(const float* values, std::int64_t column, std::int64_t count, double mask_bound, std::uint64_t block,
              std::int64_t width, double* buckets);
double AddRow(const double* values, std::int64_t column, std::int64_t count, double mask_bound, std::uint64_t block,
              std::int64_t width, double* buckets);

}  // namespace paritrace
