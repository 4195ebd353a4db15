// How far apart rounding alone may carry two runs of one model: the bound between `within_noise` and `diverged`.
//
// Without weights nothing can be replayed, so this is a bound and no measurement. It is the probabilistic one of
// N. Higham and T. Mary, "A new approach to probabilistic rounding error analysis" (SIAM J. Sci. Comput. 41, 2019,
// theorem 2.4): after n roundings of unit roundoff u the relative error stays below lambda * sqrt(n) * u, except with a
// probability of 2 * exp(-lambda^2 / 2) at most. The errors of the two runs are independent, so their squares add.
//   n counts, at a site, (1) every tensor stored before it, rounded to the storage type, and (2) for each of those
//   the terms that were summed for one of its values (the model's width), rounded to the type of the sums.
//   lambda follows from how many judgements a diff passes: with m of them, and a chance of kFalseAlarm that rounding
//   alone breaks any bound in the whole diff, it is sqrt(2 * ln(2 * m / kFalseAlarm)) (the union bound).
// What it leaves out is how much the model itself amplifies an error; residual networks damp more than they amplify.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "trace/trace.h"

namespace paritrace {

// Unit roundoffs of an engine: relative to a value, half of the distance to the next one.
struct EngineRounding {
  std::string name;       // as in the contract ("torch-bf16"), or the type seen in the values ("bf16")
  double storage = 0;     // of values as they are handed on
  double sums = 0;        // inside a sum
  bool inferred = false;  // from the values, because the header names no arithmetic
};

// From header.arithmetic; where that is empty or unknown, from the values: the coarsest grid (bf16, f16, f32, f64) that
// holds every value of most tensors looked at.
[[nodiscard]] EngineRounding RoundingOf(const Trace& trace);

// Tensors that a decoder has stored by the time `site` stands, the site's own included: 17 a layer, 2 before the first.
// `otherwise` for a name that is no site. `layers`: how many the model has (for what follows the last).
[[nodiscard]] std::int64_t StoredBefore(std::string_view site, std::int64_t layers, std::int64_t otherwise);

class NoiseModel {
 public:
  // width: terms summed for one value, at most (the model's hidden size).
  NoiseModel(EngineRounding reference, EngineRounding subject, std::int64_t width);

  // The largest rms(difference) / rms(reference) that rounding explains after `stored` tensors, where as many as
  // `judgements` such bounds are asked for in all.
  [[nodiscard]] double Relative(std::int64_t stored, std::int64_t judgements) const;

  [[nodiscard]] const EngineRounding& reference() const { return reference_; }
  [[nodiscard]] const EngineRounding& subject() const { return subject_; }

  static constexpr double kFalseAlarm = 1e-3;

 private:
  EngineRounding reference_, subject_;
  double variance_per_tensor_;
};

}  // namespace paritrace
