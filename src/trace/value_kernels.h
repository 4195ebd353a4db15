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

inline constexpr std::int64_t kBlockLanes = 8;

}  // namespace paritrace
