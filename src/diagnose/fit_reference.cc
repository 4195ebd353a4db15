#include "diagnose/fit_reference.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include <fmt/format.h>

#include "diagnose/routing.h"
#include "diagnose/search.h"
#include "diagnose/site_stats.h"
#include "diagnose/verdict.h"

namespace paritrace {
namespace {

std::string RoleOf(const Node& node) {
  const std::size_t dot = node.layer == kAbsent ? std::string::npos : node.site.find('.', 7);
  return dot == std::string::npos ? node.site : node.site.substr(dot + 1);
}

bool IsRope(const Node& node) { return std::holds_alternative<RopeOp>(node.op); }

SiteStats Measure(const Replay& replay, const Node& node) {
  return MeasureSite(replay.graph(), node, replay.recording().At(node.id),
                     {replay.Exact(node.id), replay.Predicted(node.id), replay.Sampled(node.id)}, nullptr,
                     replay.arithmetic(), {0, replay.recording().run.count()});
}

class Fitter {
 public:
  Fitter(Graph& graph, Replay& replay) : graph_(graph), replay_(replay) { out_.proof.resize(graph.nodes.size()); }

  FittedReference Run() {
    for (Node& node : graph_.nodes) {
      if (std::holds_alternative<NormOp>(node.op)) FitWeights(node);
      replay_.Run({}, node.id, node.id);
      if (!replay_.recording().Has(node.id) || std::holds_alternative<UnknownOp>(node.op)) continue;
      out_.proof[static_cast<std::size_t>(node.id)] =
          std::holds_alternative<TopExpertsOp>(node.op) ? ChoosesTheMostProbable(node) : Explain(node.id);
    }
    return std::move(out_);
  }

 private:
  const TensorView View(const std::string& name, std::vector<double> values) {
    const auto& kept = out_.storage.emplace_back(std::move(values));
    return {name, DType::kF64, {static_cast<std::int64_t>(kept.size())}, std::as_bytes(std::span(kept))};
  }

  void FitWeights(Node& node) {
    std::optional<FittedNorm> fitted;
    const std::int64_t width = WidthOf(graph_, graph_.nodes[static_cast<std::size_t>(node.inputs[0])]);
    if (replay_.recording().Has(node.id))
      fitted = FitNorm(replay_.Input(node.inputs[0]), replay_.recording().At(node.id), std::get<NormOp>(node.op).group);
    if (!fitted) {
      node.op = UnknownOp{width};
      return;
    }
    node.op = fitted->op;
    node.doubt = fitted->doubt;
    const std::string role = RoleOf(node);
    node.weight = graph_.AddWeight({.name = node.site + ".weight",
                                    .tensor = View(node.site, std::move(fitted->weight)),
                                    .role = role,
                                    .layer = node.layer});
    if (!fitted->bias.empty())
      node.bias = graph_.AddWeight({.name = node.site + ".bias",
                                    .tensor = View(node.site, std::move(fitted->bias)),
                                    .role = role,
                                    .layer = node.layer});
  }

  Proof ChoosesTheMostProbable(const Node& node) const {
    const SiteStats stats = MeasureRouting(replay_, node, {0, replay_.recording().run.count()});
    return stats.all.count == 0 ? Proof::kNoInputs : stats.all.broken == 0 ? Proof::kProven : Proof::kNone;
  }

  // The reference is trusted: where a known departure from the graph explains it, that is how the model is.
  Proof Explain(NodeId id) {
    constexpr int kMostChanges = 3;   // pairs, scale and window of one op
    constexpr int kMostFailures = 2;  // layers after which no more is searched for in the same place
    for (int change = 0; change <= kMostChanges; ++change) {
      const Node& node = graph_.nodes[static_cast<std::size_t>(id)];
      const SiteStats stats = Measure(replay_, node);
      if (stats.all.count == 0) return Proof::kNoInputs;
      const Flags flags = JudgeSize(stats);
      if (!flags.flagged) return Proof::kProven;
      int& failures = failures_[RoleOf(node)];
      if (change == kMostChanges || std::holds_alternative<NormOp>(node.op) || failures == kMostFailures) break;
      const Finding finding = ExplainFlagged(replay_, id, stats, flags);
      if (finding.edit.empty() || !finding.where.everything()) {
        ++failures;
        break;
      }
      Adopt(finding, id, std::sqrt(stats.introduced_nmse()));
    }
    return Proof::kNone;
  }

  void Adopt(const Finding& finding, NodeId id, double error) {
    const Node target = graph_.nodes[static_cast<std::size_t>(id)];
    NodeId first = id;
    for (const auto& [changed, node] : finding.edit) {
      graph_.nodes[static_cast<std::size_t>(changed)] = node;
      first = std::min(first, changed);
      // Later layers most likely are the same; where they are not, they are fitted in turn.
      for (Node& later : graph_.nodes) {
        if (later.id <= std::max(changed, id) || later.op.index() != node.op.index()) continue;
        if (!(RoleOf(later) == RoleOf(node) || (IsRope(later) && IsRope(node)))) continue;
        if (std::holds_alternative<NormOp>(node.op)) continue;
        const std::int64_t heads = IsRope(later) ? std::get<RopeOp>(later.op).heads : 0;
        later.op = node.op;
        if (heads > 0) std::get<RopeOp>(later.op).heads = heads;
      }
    }
    replay_.Run({}, id, first);
    const SiteStats after = Measure(replay_, graph_.nodes[static_cast<std::size_t>(id)]);
    // A number that nobody would have written is known no better than the reference shows it.
    if (std::ranges::any_of(finding.causes, IsEstimate)) {
      for (const auto& [changed, node] : finding.edit) Doubt(changed, std::sqrt(after.introduced_nmse()));
    }
    if (JudgeSize(after).flagged && after.introduced_nmse() < error * error) return;  // one more change may follow
    std::string what;
    for (const NamedCause& cause : finding.causes) {
      what += fmt::format("{}{}{}", what.empty() ? "" : ", ", cause.id,
                          cause.found.is_null() ? "" : fmt::format(" {}", cause.found.dump()));
    }
    if (told_.insert(RoleOf(target) + what).second) {
      out_.learned.push_back(
          fmt::format("the reference's {} is taken as right, with {} against Llama's defaults", target.site, what));
    }
  }

  static bool IsEstimate(const NamedCause& cause) {
    constexpr std::size_t kWritten = 8;
    return cause.found.is_number_float() && cause.found.dump().size() > kWritten;
  }

  void Doubt(NodeId id, double doubt) {
    const Node& doubted = graph_.nodes[static_cast<std::size_t>(id)];
    for (Node& node : graph_.nodes) {
      if (node.id >= id && RoleOf(node) == RoleOf(doubted)) node.doubt = std::max(node.doubt, doubt);
    }
  }

  Graph& graph_;
  Replay& replay_;
  FittedReference out_;
  std::set<std::string> told_;
  std::map<std::string, int> failures_;  // by role
};

}  // namespace

FittedReference FitReference(Graph& graph, Replay& replay) { return Fitter(graph, replay).Run(); }

}  // namespace paritrace
