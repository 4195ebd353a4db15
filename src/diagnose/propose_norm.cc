// Mistakes of RMSNorm and LayerNorm: eps, weight, kind, and a norm left out.
#include <array>
#include <cmath>

#include <fmt/format.h>

#include "diagnose/hypothesis.h"

namespace paritrace {
namespace {

void ProposeEps(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const NormOp right = std::get<NormOp>(node.op);
  const auto with_eps = [&](double eps) {
    Node changed = node;
    std::get<NormOp>(changed.op).eps = eps;
    return site.With(changed);
  };
  const auto propose = [&](double eps, int parameters) {
    if (std::fabs(eps - right.eps) <= 1e-4 * right.eps) return;
    out.push_back({.cause = "norm.eps",
                   .edit = with_eps(eps),
                   .expected = right.eps,
                   .found = eps,
                   .statement = fmt::format("the norm runs with eps {:g} where the model says {:g}", eps, right.eps),
                   .fix = fmt::format("set eps to {:g}", right.eps),
                   .parameters = parameters});
  };
  // The values that engines hard-code come first: on rows of ordinary size they are all that rounding leaves to see.
  for (const double eps : {0.0, 1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1}) propose(eps, 0);
  for (const double eps : NiceNumbers(site.FitLog(1e-9, 10, 40, with_eps))) propose(eps, 1);
}

void ProposeWeightUse(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const NormOp right = std::get<NormOp>(node.op);
  const auto with = [&](NormWeight use, double factor) {
    Node changed = node;
    std::get<NormOp>(changed.op).use = use;
    std::get<NormOp>(changed.op).weight_factor = factor;
    return site.With(changed);
  };
  if (node.weight == kAbsent) return;
  out.push_back({.cause = "norm.weight_missing",
                 .edit = with(NormWeight::kMissing, 1),
                 .statement = "the norm's weight is not applied",
                 .fix = "multiply by the norm's weight after normalising"});
  if (right.use == NormWeight::kTimes) {
    out.push_back({.cause = "norm.weight_twice",
                   .edit = with(NormWeight::kTwice, 1),
                   .statement = "the norm's weight is applied twice",
                   .fix = "apply the weight once; look for a loader that folds it into the next matrix as well"});
  }
  const bool plus_one = right.use == NormWeight::kPlusOne;
  out.push_back({.cause = "norm.weight_plus_one",
                 .edit = with(plus_one ? NormWeight::kTimes : NormWeight::kPlusOne, 1),
                 .expected = plus_one ? "1 + weight" : "weight",
                 .found = plus_one ? "weight" : "1 + weight",
                 .statement = plus_one ? "the norm multiplies by its weight where the model means 1 + weight"
                                       : "the norm multiplies by 1 + weight where the model means weight",
                 .fix = plus_one ? "add 1 to the weight" : "do not add 1: the file's weight already holds it"});
  if (plus_one) {
    out.push_back({.cause = "norm.weight_plus_one",
                   .edit = with(NormWeight::kPlusTwo, 1),
                   .expected = "1 + weight",
                   .found = "2 + weight",
                   .statement = "the norm multiplies by 2 + weight where the model means 1 + weight: 1 is added twice",
                   .fix = "add the 1 in one place: in the conversion or in the norm"});
  }
  for (const double factor : NiceNumbers(site.BestFactor(site.base()))) {
    if (std::fabs(factor - 1) < 1e-6) continue;
    out.push_back({.cause = "norm.weight_scale",
                   .edit = with(right.use, factor),
                   .expected = 1.0,
                   .found = factor,
                   .statement = fmt::format("the norm's output is {:g} times what its weight gives", factor),
                   .fix = "look for a norm weight that was rescaled on loading, such as by 1/sqrt(n)",
                   .parameters = 1});
  }
}

void ProposeOtherWeight(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  if (node.weight == kAbsent) return;
  const auto& weights = site.graph().weights;
  const Weight& right = weights[static_cast<std::size_t>(node.weight)];
  for (std::size_t id = 0; id < weights.size(); ++id) {
    const Weight& other = weights[id];
    if (static_cast<WeightId>(id) == node.weight || other.tensor.shape != right.tensor.shape ||
        !other.role.ends_with("norm"))
      continue;
    Node changed = node;
    changed.weight = static_cast<WeightId>(id);
    out.push_back({.cause = "norm.wrong_weight",
                   .edit = site.With(changed),
                   .expected = right.name,
                   .found = other.name,
                   .statement = fmt::format("the norm uses {} where {} belongs", other.name, right.name),
                   .fix = fmt::format("load {} here", right.name)});
  }
}

void ProposeKind(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  Node changed = node;
  auto& op = std::get<NormOp>(changed.op);
  const bool rms = op.kind == NormKind::kRms;
  op.kind = rms ? NormKind::kLayer : NormKind::kRms;
  out.push_back({.cause = "norm.type",
                 .edit = site.With(changed),
                 .expected = rms ? "rms_norm" : "layer_norm",
                 .found = rms ? "layer_norm" : "rms_norm",
                 .statement = rms ? "the mean is subtracted: LayerNorm where the model has RMSNorm"
                                  : "the mean is kept: RMSNorm where the model has LayerNorm",
                 .fix = rms ? "use RMSNorm" : "use LayerNorm"});
  if (node.bias != kAbsent) {
    changed = node;
    changed.bias = kAbsent;
    out.push_back({.cause = "norm.bias_missing",
                   .edit = site.With(changed),
                   .statement = "the norm's bias is not added",
                   .fix = "add the norm's bias"});
  }
  if (node.site == "final_norm") {
    changed = node;
    changed.op = AddOp{};
    out.push_back({.cause = "head.final_norm_missing",
                   .edit = site.With(changed),
                   .statement = "the final norm is left out",
                   .fix = "normalise the residual stream before the head"});
  }
}

// Lanes that are normalised together: each head where it is the row, the row where it is each head, or one of several ranks'
// share of it.
void ProposeAxis(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const NormOp right = std::get<NormOp>(node.op);
  const std::int64_t row = WidthOf(site.graph(), node), own = right.group > 0 ? right.group : row,
                     head = site.graph().head_dim;
  const auto propose = [&](std::int64_t lanes, const std::string& over) {
    if (lanes < 2 || lanes == own || row % lanes != 0) return;
    Node changed = node;
    std::get<NormOp>(changed.op).group = lanes == row ? 0 : lanes;
    out.push_back(
        {.cause = "norm.axis",
         .edit = site.With(changed),
         .expected = own,
         .found = lanes,
         .statement = fmt::format("{} lanes are normalised together, {}, where the model takes {}", lanes, over,
                                  own == row ? std::string("the whole row") : fmt::format("each {}", own)),
         .fix = fmt::format("normalise over {} lanes at a time", own)});
  };
  propose(row, "the whole row");
  propose(head, "each head");
  for (const std::int64_t parts : {2, 4, 8}) propose(own / parts, fmt::format("1/{} of what belongs together", parts));
}

}  // namespace

void ProposeNorm(const SearchSite& site, std::vector<Hypothesis>& out) {
  for (const Node& node : site.segment()) {
    if (!std::holds_alternative<NormOp>(node.op)) continue;
    ProposeWeightUse(site, node, out);
    ProposeKind(site, node, out);
    ProposeAxis(site, node, out);
    ProposeEps(site, node, out);
    ProposeOtherWeight(site, node, out);
  }
}

}  // namespace paritrace
