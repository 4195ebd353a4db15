// What a wrong product shows without its weights: its relation to what the reference has here, or at the product beside it.
#pragma once

#include "diagnose/product_judge.h"
#include "diagnose/replay.h"
#include "diagnose/search.h"

namespace paritrace {

// node: an unknown step that both sides recorded and MeasureProduct flagged with `stats` and `flags`. A cause is named only where a
// relation holds to within the floor or a hundredth of the error; else "unknown", with what is seen.
[[nodiscard]] Finding NameProduct(const Graph& graph, const Recording& reference, const Recording& subject,
                                  const Node& node, const SiteStats& stats, const Flags& flags);

}  // namespace paritrace
