// The graph of a model that is not there, as far as the sites and shapes of two traces tell it: the ops that need no weights,
// with Llama's parameters to begin with, norms without their weights, and unknown steps in the place of products.
#pragma once

#include "graph/graph.h"
#include "trace/trace.h"

namespace paritrace {

// The reference's shapes count where the two disagree. What the ops' parameters really are is fitted to the reference
// afterwards (fit_reference.h). Errors: IncomparableError if no site tells the width of the residual stream.
[[nodiscard]] Graph InferGraph(const Trace& reference, const Trace& subject);

}  // namespace paritrace
