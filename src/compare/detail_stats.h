// The statistics that `diff --all-stats` adds: how large differences are beside the values, in units of the last place,
// how many signs flip, and error and energy channel by channel. They merge as PairStats do.
#pragma once

#include <cstdint>
#include <vector>

#include "compare/detail_kernels.h"
#include "core/tensor.h"

namespace paritrace {

struct PairLayout;

// How many bits a type's values have, and the smallest exponent they have all of them at.
struct TypePrecision {
  int digits = 24;
  int least_exponent = -126;
};
// Integers and block types: as f32, which their values decode to.
[[nodiscard]] TypePrecision PrecisionOf(DType dtype);
[[nodiscard]] TypePrecision CoarserPrecision(DType reference, DType subject);

struct DetailStats {
  ExponentSums exponents;
  TypePrecision unit;        // of the coarser of the two types: what a unit in the last place means here
  std::int64_t skipped = 0;  // pairs with a NaN, an infinity or a mask
  std::vector<double> channel_error, channel_energy;  // [channels]: sums of (r-s)^2 and r*r over all rows

  // Channels of both must be as many; an empty one takes the other's.
  void Merge(const DetailStats& other);

  [[nodiscard]] std::int64_t Counted() const;  // pairs in the histogram

  // Below this bound lies the share `quantile` of the pairs' |r-s| / |r|. The histogram is by powers of two, so the value
  // itself is at least a quarter of the bound. 0: that share is equal. A reference of zero counts as the smallest normal
  // value of the coarser type.
  [[nodiscard]] double RelativeErrorQuantile(double quantile) const;

  // The same in units in the last place of the reference; the value is more than half of the bound, or 0.
  [[nodiscard]] double UlpQuantile(double quantile) const;
  [[nodiscard]] double MaxUlp() const;
};

// Adds values one by one, whatever their type and layout: for what TilePass does not take or leaves out.
class DetailCollector {
 public:
  DetailCollector(const TensorView& reference, const TensorView& subject, const PairLayout& layout);

  // An empty result with room for the channels.
  [[nodiscard]] DetailStats Start() const;

  // Rows [row, row + rows) of one outer part, of each the values [inner, inner + count).
  void Add(std::int64_t outer, std::int64_t row, std::int64_t rows, std::int64_t inner, std::int64_t count,
           DetailStats& to) const;

 private:
  const TensorView& reference_;
  const TensorView& subject_;
  const PairLayout& layout_;
  TypePrecision unit_;
  bool exact_in_f32_;
};

}  // namespace paritrace
