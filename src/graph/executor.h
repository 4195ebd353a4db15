// Runs a whole model from its tokens, in any arithmetic: the oracle.
#pragma once

#include <functional>
#include <vector>

#include "graph/ops.h"

namespace paritrace {

// Values of all nodes, by id. Errors: as Compute.
[[nodiscard]] std::vector<Value> RunGraph(
    const Graph& graph, const RunInput& run, const Arithmetic& arithmetic,
    const std::function<void(std::size_t done, std::size_t total)>& progress = {});

}  // namespace paritrace
