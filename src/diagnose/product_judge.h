// A product whose weights are not there, and the embedding: with nearly the same inputs as the reference's it must give nearly
// the same outputs. How nearly is computed, from both engines' rounding and from how much the product amplifies differences.
#pragma once

#include <optional>

#include "compare/noise.h"
#include "diagnose/site_stats.h"

namespace paritrace {

struct ProductSides {
  const Value* reference_in = nullptr;  // [tokens, inputs]; nullptr: the tokens themselves, which are the same
  const Value* subject_in = nullptr;
  const RecordedSite& reference_out;
  const RecordedSite& subject_out;
  double reference_noise = 0, subject_noise = 0;  // rms error of such a product relative to its operands' size
  std::int64_t head_width = 0;                    // 0: no heads
};

// rms error of a product by this engine, relative to |weights| |inputs|, with sums of `terms`.
[[nodiscard]] double ProductNoise(const EngineRounding& engine, std::int64_t terms);

// rms difference between two engines' weights, relative to their size, by the types that their headers state: nothing where both
// state the same types, else the coarsest step among them. 0 where nothing is stated.
[[nodiscard]] double WeightDifference(const TraceHeader& reference, const TraceHeader& subject);

// The subject's outputs against the reference's, with a floor that covers both roundings and the difference of the inputs:
//   2 * gain * |x_s - x_r|, where gain is the largest |y_i - y_j| / |x_i - x_j| over pairs of the reference's tokens.
// nullopt where that floor is more than a tenth of the output: the inputs are too far apart for anything to be said.
[[nodiscard]] std::optional<SiteStats> MeasureProduct(const ProductSides& sides);

}  // namespace paritrace
