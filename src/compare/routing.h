// Compares which experts two runs chose: sets of numbers, where a difference of values would mean nothing.
#pragma once

#include <cstdint>
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

}  // namespace paritrace
