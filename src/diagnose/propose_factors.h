// Constant factors inside a stretch of the graph that nothing was recorded of.
#pragma once

#include <vector>

#include "diagnose/hypothesis.h"

namespace paritrace {

// Nodes; two layers. Over longer stretches replays take too long, and too much looks alike.
inline constexpr std::size_t kLongestStretch = 48;

// For each place between the target and what was recorded before it where a factor can enter (projections, norms, scores, sums),
// the factor there that fits best. Where two recorded values are the ends of a long stretch, many mistakes look like one
// of these: queries twice as long and scores twice as large give the same probabilities. So they are proposed beside any
// explanation that has a fitted number, and the recording must prefer it to them. Nothing where the target stands alone, or for
// stretches longer than that.
void ProposeInnerFactors(const SearchSite& site, std::vector<Hypothesis>& out);

}  // namespace paritrace
