// Compares which experts two runs chose: sets of numbers, where a difference of values would mean nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/tensor.h"

namespace paritrace {

struct RoutingDiff {
  std::int64_t tokens = 0;
  std::int64_t same_order = 0;        // tokens with the same experts in the same order
  std::int64_t same_set = 0;          // tokens with the same experts in whatever order; same_order among them
  std::vector<std::int64_t> flipped;  // rows whose sets differ, ascending
};

// reference, subject: [rows, k] of any integer type (floats that hold integers too), `experts` = k values from each start.
//   reference_base, subject_base: index of the first value to take.
[[nodiscard]] RoutingDiff CompareRouting(const TensorView& reference, std::int64_t reference_base,
                                         const TensorView& subject, std::int64_t subject_base, std::int64_t rows,
                                         std::int64_t experts);

// Weights of a mixture by expert instead of by rank, so that two runs that sort their experts differently still compare.
struct ExpertWeights {
  std::int64_t rows = 0, experts = 0;
  std::vector<double> reference, subject;  // [rows, experts], 0 where an expert was not chosen
};

// One side's recorded weights, with its `moe.experts` where they are recorded (else nullptr).
struct RecordedWeights {
  const TensorView& weights;  // [rows, k] in the order of `experts`, or [rows, experts] with zeros
  const TensorView* experts;  // [rows, k]
};

// nullopt where that is not needed (both in the same order already) or not possible (no `experts` to go by, other rows,
// an expert number that is none).
[[nodiscard]] std::optional<ExpertWeights> AlignExpertWeights(const RecordedWeights& reference,
                                                              const RecordedWeights& subject);

}  // namespace paritrace
