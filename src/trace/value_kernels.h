// The inner loops of a trace's statistics and sketches. Written with fixed lanes, so that every CPU adds in the same order and
// gives the same bits; the vectors are the compiler's, so that what engines link needs no library for them.
#pragma once

#include <array>
#include <cstdint>

namespace paritrace {

inline constexpr std::int64_t kSumLanes = 16;

// Of finite values. Value i of each call goes into partial sum i mod kSumLanes.
struct Moments {
  Moments();
  std::array<double, kSumLanes> sums{}, squares{};
  double min, max;                            // infinity and -infinity where there is none
  std::int64_t nan = 0, inf = 0, masked = 0;  // counted apart

  [[nodiscard]] double Sum() const;
  [[nodiscard]] double Squares() const;
  void Merge(const Moments& later);
};

// Adds values. Those up to `mask_bound` count as masked, infinite ones too; pass NaN for no such bound.
void AddMoments(const float* values, std::int64_t count, double mask_bound, Moments& moments);
void AddMoments(const double* values, std::int64_t count, double mask_bound, Moments& moments);

// Replaces what is not finite, and what is up to `mask_bound`, by 0, and returns the sum of squares of the rest.
double KeepFinite(double* values, std::int64_t count, double mask_bound);

inline constexpr std::int64_t kBlockLanes = 8;

// Adds a stretch of one row to a group's buckets, by the hashes of docs/trace-format.md, "Digests".
//   values   [count] of columns [column, column + count) of the row, all finite
//   block    index of the row's first block; block + column / 8 is that of the first value
//   buckets  [4, width], width a multiple of kBlockLanes
void AddToSketch(const double* values, std::int64_t column, std::int64_t count, std::uint64_t block, std::int64_t width,
                 double* buckets);

}  // namespace paritrace
