// A subject's trace laid over a model's graph: for each node the values that were recorded, in the graph's layout, all
// steps side by side. Everything that depends on how an engine shapes its tensors ends here.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "graph/arithmetic.h"
#include "graph/graph.h"
#include "graph/ops.h"
#include "graph/value.h"
#include "trace/trace.h"

namespace paritrace {

struct RecordedSite {
  Value value;                    // [tokens, features] or [heads, tokens, tokens]; masked scores are -infinity
  std::vector<bool> token_known;  // [tokens]: false where that token's row was not recorded
  std::string name;               // the engine's own
  [[nodiscard]] bool complete() const;
};

struct Recording {
  RunInput run;
  std::vector<TraceStep> steps;                    // ascending, covering all tokens
  std::vector<std::optional<RecordedSite>> sites;  // by node id
  std::vector<std::string> unknown_sites;          // recorded, but this graph has no such site
  std::map<int, bool> other_schedule;  // layers that ran a mixture (true) where the graph is dense, or the reverse
  std::size_t recorded_count = 0;
  std::string token_remark;         // how the token ids were had, where the trace does not state them
  Rounding grid = Rounding::kNone;  // coarsest format that holds every recorded float value

  [[nodiscard]] bool Has(NodeId id) const { return sites[static_cast<std::size_t>(id)].has_value(); }
  [[nodiscard]] const RecordedSite& At(NodeId id) const { return *sites[static_cast<std::size_t>(id)]; }
  // The step that token `index` belongs to.
  [[nodiscard]] int StepOf(std::int64_t index) const;
};

// A trace without token ids (any program's tensors) gets them back from its embedding rows; without those too, what comes
// before the first recorded tensor cannot be replayed, and is not judged.
// Errors: IncomparableError if the trace has none of the graph's sites, or shapes or tokens of another model; UsageError if
// it holds several sequences.
[[nodiscard]] Recording AssembleRecording(const Trace& trace, const Graph& graph);

// Features of a node's value, for [tokens, features] nodes; number of heads for scores and probabilities.
[[nodiscard]] std::int64_t WidthOf(const Graph& graph, const Node& node);
[[nodiscard]] bool IsScoreShaped(const Node& node);

// Calls visit(flat index) for every value of a recorded node whose token's row was recorded, in order.
template <typename Visit>
void ForEachKnown(const Node& node, const RecordedSite& site, Visit&& visit) {
  const auto tokens = static_cast<std::int64_t>(site.token_known.size()), cols = site.value.cols();
  const bool scores = IsScoreShaped(node);
  for (std::int64_t r = 0; r < site.value.rows(); ++r) {
    if (!site.token_known[static_cast<std::size_t>(scores ? r % tokens : r)]) continue;
    for (std::int64_t c = 0; c < cols; ++c) visit(static_cast<std::size_t>(r * cols + c));
  }
}

}  // namespace paritrace
