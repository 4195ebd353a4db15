#include "diagnose/counterfactual.h"

#include <algorithm>

#include <fmt/format.h>

#include "diagnose/site_stats.h"
#include "diagnose/verdict.h"

namespace paritrace {

Counterfactual RunCounterfactual(const Graph& graph, const Recording& recording, const Arithmetic& arithmetic,
                                 const std::vector<Edit>& edits) {
  Graph edited = graph;
  Edit all;
  for (const Edit& edit : edits) all.insert(edit.begin(), edit.end());
  for (const auto& [id, node] : all) edited.nodes[static_cast<std::size_t>(id)] = node;
  // A step that is rounded to a coarser format flips where its input lies next to a tie: one of its roundings is noise.
  Arithmetic judged = arithmetic;
  for (const auto& [id, node] : all) {
    for (const RoundMark& mark : node.marks) {
      if (HalfUlp(mark.rounding, 1) > HalfUlp(judged.storage, 1)) judged.storage = mark.rounding;
    }
  }
  Recording tokens_only;
  tokens_only.run = recording.run;
  tokens_only.steps = recording.steps;
  tokens_only.sites.resize(recording.sites.size());
  Replay replay(edited, tokens_only, arithmetic, /*with_free=*/false);
  replay.Run();
  Counterfactual result{.explains = true};
  for (const Node& node : graph.nodes) {
    if (!recording.Has(node.id)) continue;
    const SiteStats stats = MeasureSite(graph, node, recording.At(node.id),
                                        {replay.Exact(node.id), replay.Predicted(node.id), replay.Sampled(node.id)},
                                        nullptr, judged, {0, recording.run.count()});
    if (stats.all.count == 0) continue;
    result.ratio = std::max(result.ratio, stats.all.ratio());
    if (stats.all.ratio() <= SizeLimit(stats.all.count)) continue;
    result.explains = false;
    result.first = node.id;
    return result;
  }
  return result;
}

std::string StatementOf(const Counterfactual& result, const Graph& graph, std::size_t defects) {
  const std::string what = defects == 1 ? "this defect" : fmt::format("these {} defects", defects);
  if (result.explains) {
    return fmt::format(
        "With {} built into the model and nothing forced, the whole run comes out within noise, to the last "
        "recorded site: {} explain{} everything.",
        what, defects == 1 ? "it" : "they", defects == 1 ? "s" : "");
  }
  return fmt::format(
      "With {} built into the model and nothing forced, {} still differs by {:.1f} times the noise: {} not "
      "all that is wrong, or not quite what is.",
      what, graph.nodes[static_cast<std::size_t>(result.first)].site, result.ratio,
      defects == 1 ? "it is" : "they are");
}

}  // namespace paritrace
