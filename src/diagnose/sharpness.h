// Do recorded values equal a prediction to the bit? The one evidence that a step was rounded otherwise than declared.
#pragma once

#include "diagnose/replay.h"
#include "diagnose/site_stats.h"

namespace paritrace {

// right: predicted as declared; wrong: predicted with the step rounded otherwise; stats: of the site, as declared.
// True if the values that tell the two apart are `wrong`'s. Where results are stored coarsely, that means equality; where they
// are stored in f32, whose sums have no known order, the distance to `wrong` is f32's noise while that to `right` is far more.
// A rounding may flip where the value before it lies next to a tie, in fewer than one value of a hundred.
[[nodiscard]] bool IsSharp(const Replay& replay, const Node& node, const Value& right, const Value& wrong,
                           const SiteStats& stats);

}  // namespace paritrace
