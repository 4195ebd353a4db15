#include "diagnose/learn_arithmetic.h"

#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>

#include "core/error.h"
#include "diagnose/policy.h"
#include "diagnose/replay.h"
#include "diagnose/row_order.h"
#include "diagnose/site_stats.h"

namespace paritrace {
namespace {

// A family is well explained from here on; a recipe must leave at most half of what the policy leaves, on values it was not
// chosen by, and explain so many more that no luck does.
constexpr double kExplained = 0.999, kMostLeft = 0.5, kFewestMore = 32;
constexpr std::size_t kSearched = 2, kChecked = 4;  // sites that choose a recipe, and others that test it

struct Share {
  std::int64_t exact = 0, values = 0;
  [[nodiscard]] double value() const {
    return values == 0 ? 1 : static_cast<double>(exact) / static_cast<double>(values);
  }
};

class Learner {
 public:
  Learner(const Replay& replay, const Arithmetic& policy) : replay_(replay), policy_(policy) {}

  // Values of a site that come out equal to the bit, computed from its recorded inputs under `arithmetic`.
  Share Measure(const std::vector<NodeId>& sites, const Arithmetic& arithmetic) const {
    Share share;
    const Graph& graph = replay_.graph();
    const Recording& recording = replay_.recording();
    for (const NodeId id : sites) {
      const Node& node = graph.nodes[static_cast<std::size_t>(id)];
      std::vector<const Value*> inputs;
      for (const NodeId input : node.inputs) inputs.push_back(&recording.At(input).value);
      const Value value = Compute(node, inputs, graph, recording.run, arithmetic);
      const SiteStats stats = MeasureSite(graph, node, recording.At(id), {replay_.Exact(id), value, value}, nullptr,
                                          policy_, {0, recording.run.count()});
      share.exact += stats.exact;
      share.values += stats.all.count;
    }
    return share;
  }

  // Every recipe of a family, the plainest first: a later one must explain more to stand.
  std::vector<OpRecipe> Candidates(const std::string& family) const {
    const std::vector<std::optional<Rounding>> formats = {std::nullopt, Rounding::kNone, Rounding::kF32,
                                                          Rounding::kBF16, Rounding::kF16};
    const std::vector<std::optional<Accumulate>> sums = {std::nullopt, Accumulate::kExact, Accumulate::kF32Sequential};
    using Kernel = ActivationKernel;
    const std::vector<std::optional<Kernel>> kernels = {std::nullopt,         Kernel::kExact,    Kernel::kVector,
                                                        Kernel::kStoredSteps, Kernel::kRational, Kernel::kGgml};
    const bool rounds_inside = family == "norm" || family == "rope" || family == "softmax" || family == "activation";
    const bool multiplies = family == "linear" || family == "scores" || family == "context";
    const bool reduces = family == "norm" || family == "softmax";
    std::vector<OpRecipe> candidates;
    for (const bool fused : {false, true}) {
      for (const auto& kernel : kernels) {
        if (kernel && family != "activation") continue;
        for (const auto& sum : sums) {
          if (sum && !multiplies && !reduces) continue;
          for (const auto& inner : formats) {
            if (inner && !rounds_inside) continue;
            candidates.push_back({.family = family,
                                  .inner = inner,
                                  .accumulate = multiplies ? sum : std::nullopt,
                                  .reduce = reduces ? sum : std::nullopt,
                                  .activation = kernel,
                                  .fused = fused});
          }
        }
      }
    }
    return candidates;
  }

  [[nodiscard]] OpRecipe Best(const std::string& family, const std::vector<NodeId>& sites) const {
    OpRecipe best{.family = family};
    std::int64_t most = -1;
    for (const OpRecipe& recipe : Candidates(family)) {
      Arithmetic trial = policy_;
      trial.recipes = {recipe};
      const std::int64_t exact = Measure(sites, trial).exact;
      if (exact > most) {
        most = exact;
        best = recipe;
      }
    }
    return best;
  }

 private:
  const Replay& replay_;
  const Arithmetic& policy_;
};

// A few sites from all over the model.
std::vector<NodeId> Spread(const std::vector<NodeId>& sites, std::size_t count) {
  if (sites.size() <= count) return sites;
  std::vector<NodeId> some;
  for (std::size_t i = 0; i < count; ++i) some.push_back(sites[i * sites.size() / count]);
  return some;
}

}  // namespace

LearnedArithmetic LearnArithmetic(const Model& model, const Trace& subject, const DiagnoseOptions& options,
                                  const Diagnosis& diagnosis) {
  Recording recording = AssembleRecording(subject, model.graph);
  (void)AlignRowOrder(model.graph, recording);
  ChosenArithmetic chosen = ChooseArithmetic(options.arithmetic, subject, recording, model.graph);
  if (!model.source->is_gguf()) ChooseDotWeight(model.graph, recording, chosen.arithmetic);
  LearnedArithmetic learned{
      .arithmetic = chosen.arithmetic, .base = chosen.arithmetic.name, .ops = {}, .left_unexplained = {}};
  if (!FindArithmetic(learned.base)) throw UsageError("--learn-arithmetic starts from a known policy, not from a file");
  Replay replay(model.graph, recording, chosen.arithmetic, /*with_free=*/false);
  replay.Run(options.progress);

  std::set<std::string> named;
  for (const Defect& defect : diagnosis.defects) {
    // A step in another precision than declared is what there is to learn.
    if (defect.cause.id != "unknown" && defect.cause.id != "precision") named.insert(defect.site);
  }
  std::map<std::string, std::vector<NodeId>> families;
  for (const Node& node : model.graph.nodes) {
    const auto known = [&](NodeId id) { return recording.Has(id) && recording.At(id).complete(); };
    if (known(node.id) && !node.inputs.empty() && std::ranges::all_of(node.inputs, known) && !named.contains(node.site))
      families[std::string(FamilyOf(node.op))].push_back(node.id);
  }
  const Learner learner(replay, chosen.arithmetic);
  for (const auto& [family, sites] : families) {
    if (family == "other" || family == "moe") continue;
    if (learner.Measure(Spread(sites, kChecked), chosen.arithmetic).value() >= kExplained) continue;
    const std::vector<NodeId> searched = Spread(sites, std::min(kSearched, std::max<std::size_t>(sites.size() / 2, 1)));
    std::vector<NodeId> others;
    std::ranges::copy_if(sites, std::back_inserter(others),
                         [&](NodeId id) { return std::ranges::find(searched, id) == searched.end(); });
    const std::vector<NodeId> checked = others.empty() ? searched : Spread(others, kChecked);
    const OpRecipe recipe = learner.Best(family, searched);
    Arithmetic with = chosen.arithmetic;
    with.recipes = {recipe};
    const Share before = learner.Measure(checked, chosen.arithmetic), after = learner.Measure(checked, with);
    const bool better = static_cast<double>(after.exact - before.exact) >= kFewestMore &&
                        1 - after.value() <= kMostLeft * (1 - before.value());
    if (!better) {
      learned.left_unexplained.push_back(
          fmt::format("{}: {:.2f} % of the values to the bit, and no recipe of those searched explains much more",
                      family, 100 * before.value()));
      continue;
    }
    learned.arithmetic.recipes.push_back(recipe);
    learned.ops.push_back({recipe, before.value(), after.value(), after.values});
  }
  learned.arithmetic.name = learned.ops.empty() ? learned.base : learned.base + "+learned";
  return learned;
}

}  // namespace paritrace
