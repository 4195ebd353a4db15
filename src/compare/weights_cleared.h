// What two sets of weights rule out: a lead that is none is refuted as plainly as a mistake is named.
#pragma once

#include <vector>

#include "compare/weights.h"

namespace paritrace {

// Norm weights on an odd scale that is the published one; the error of each type, as its rounding predicts it; row orders and
// conventions that the formats keep differently.
[[nodiscard]] std::vector<WeightsResult::Cleared> ClearedByWeights(const std::vector<WeightPair>& pairs);

}  // namespace paritrace
