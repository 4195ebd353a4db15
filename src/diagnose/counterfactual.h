// Do the named mistakes explain everything? The model with all of them built in runs from the tokens to the logits, nothing
// forced, and must come out where the subject did.
#pragma once

#include <string>
#include <vector>

#include "diagnose/replay.h"

namespace paritrace {

struct Counterfactual {
  bool explains = false;   // every recorded site, logits included, within the noise that the whole run gathers
  NodeId first = kAbsent;  // else the first site that is not
  double ratio = 0;        // the largest error over noise up to there
};

// edits: one for each named mistake; where two replace one node, the first counts.
// The noise is what the subject's arithmetic makes of the same run: its rms error at a site, against f64.
[[nodiscard]] Counterfactual RunCounterfactual(const Graph& graph, const Recording& recording,
                                               const Arithmetic& arithmetic, const std::vector<Edit>& edits);

// In a sentence. defects: how many are named.
[[nodiscard]] std::string StatementOf(const Counterfactual& result, const Graph& graph, std::size_t defects);

}  // namespace paritrace
