// Two sets of weights held against each other, tensor by tensor: equal, apart by no more than the coarser type's rounding, or
// another weight, and then which one.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "compare/diff.h"
#include "compare/weight_source.h"

namespace paritrace {

// What the values of a pair say. All sums are over pairs of finite values; rms of `rms_error` is sqrt(mean((b - a)^2)).
struct WeightStats {
  std::int64_t values = 0, exact = 0,
               nonfinite = 0;  // nonfinite: pairs of which one is no number and the other not the same
  double rms_reference = 0, rms_subject = 0, rms_error = 0, max_abs = 0;
  std::int64_t max_abs_at = 0;              // flat index in the subject
  double slope = 1;                         // of the subject over the reference, through zero
  double correlation = 1;                   // cosine of the two
  double share = 1;                         // <reference, subject> over <subject, subject>
  bool has_bound = true;                    // steps of both types are known
  double expected_rms = 0;                  // step / sqrt(12): what rounding to the nearest code leaves on average
  double half_step_rms = 0;                 // the most it can leave
  std::int64_t groups = 0, bad_groups = 0;  // runs of 256 values, and those off by more than a step on average
  std::int64_t first_bad_group = -1;
};

struct WeightCause {
  std::string id;  // of the contract, or "unknown"
  double confidence = 0;
  std::string statement, fix;
  nlohmann::ordered_json expected, found;
};

struct WeightPair {
  std::string key, role;
  int layer = -1;
  std::string reference_name, subject_name;  // "" where that side has none
  Shape shape;
  DType reference_type = DType::kF32, subject_type = DType::kF32;
  SiteStatus status = SiteStatus::kIdentical;
  std::optional<WeightStats> stats;
  bool reordered = false, plus_one = false;        // as the two formats differ rightly
  std::optional<nlohmann::ordered_json> relation;  // kind, statement, left_nmse
  std::optional<WeightCause> cause;
};

struct WeightsResult {
  std::string reason;  // why nothing was compared
  Verdict verdict = Verdict::kIncomparable;
  WeightSource reference, subject;
  std::vector<WeightPair> pairs;  // in the reference's order, then what only the subject has
  struct Cleared {
    std::string what, evidence;
  };
  std::vector<Cleared> cleared;
  std::vector<std::string> remarks;
};

// progress: (values done, of all), from several threads. The result does not depend on the number of threads.
[[nodiscard]] WeightsResult CompareWeights(WeightSource reference, WeightSource subject,
                                           const std::function<void(std::int64_t, std::int64_t)>& progress = {});

}  // namespace paritrace
