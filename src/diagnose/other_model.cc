#include "diagnose/other_model.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "core/decode.h"
#include "core/error.h"
#include "diagnose/site_stats.h"
#include "diagnose/verdict.h"

namespace paritrace {
namespace {

// Independent vectors of dozens of lanes have a cosine near 0, those of one model and another rounding one near 1.
constexpr double kUnrelated = 0.3;
constexpr int kFewestOps = 4;  // fewer may all be wrong by one mistake

double Cosine(const RecordedSite& recorded, const Value& replayed) {
  double product = 0, ours = 0, theirs = 0;
  for (std::size_t i = 0; i < replayed.data.size(); ++i) {
    if (!recorded.token_known[i / static_cast<std::size_t>(replayed.cols())]) continue;
    const double x = recorded.value.data[i], y = replayed.data[i];
    if (!std::isfinite(x) || !std::isfinite(y)) return 1;  // cannot be judged
    product += x * y;
    ours += x * x;
    theirs += y * y;
  }
  return ours > 0 && theirs > 0 ? product / std::sqrt(ours * theirs) : 1;
}

}  // namespace

void RefuseBrokenWeights(const Model& model, const Replay& replay) {
  const auto finite = [](const Value& value) {
    return std::ranges::all_of(value.data, [](double x) { return std::isfinite(x); });
  };
  for (const Node& node : model.graph.nodes) {
    if (node.weight == kAbsent || finite(replay.Exact(node.id))) continue;
    if (!std::ranges::all_of(node.inputs, [&](NodeId id) { return finite(replay.Input(id)); })) continue;
    for (const WeightId id : {node.weight, node.bias}) {
      if (id == kAbsent) continue;
      const Weight& weight = model.graph.weights[static_cast<std::size_t>(id)];
      const std::vector<double> values = DecodeAll(weight.tensor);
      const auto broken = std::ranges::find_if(values, [](double x) { return !std::isfinite(x); });
      if (broken != values.end()) {
        throw FormatError(model.source->path(),
                          fmt::format("tensor \"{}\", value {}", weight.name, broken - values.begin()),
                          "a finite number", fmt::format("{}", *broken));
      }
    }
  }
}

void RefuseOtherModel(const Replay& replay, const std::string& trace) {
  const Graph& graph = replay.graph();
  const Recording& recording = replay.recording();
  int products = 0, others = 0;
  for (const Node& node : graph.nodes) {
    const bool product = std::holds_alternative<LinearOp>(node.op);
    const bool norm = std::holds_alternative<NormOp>(node.op);
    if (!recording.Has(node.id) || !(product || norm || node.site == "embed")) continue;
    if (norm) {
      const SiteStats stats = MeasureSite(graph, node, recording.At(node.id),
                                          {replay.Exact(node.id), replay.Predicted(node.id), replay.Sampled(node.id)},
                                          nullptr, replay.arithmetic(), {0, recording.run.count()});
      if (!JudgeSize(stats).flagged) return;
    } else if (!(std::fabs(Cosine(recording.At(node.id), replay.Exact(node.id))) < kUnrelated)) {
      return;
    }
    ++(product ? products : others);
  }
  if (products < kFewestOps || others == 0) return;
  throw IncomparableError(
      fmt::format("{}: expected a trace of MODEL, found none of the {} recorded products, norms and embeddings "
                  "anywhere near what its "
                  "weights give: is this a trace of another model?",
                  trace, products + others));
}

}  // namespace paritrace
