// Mistakes of a mixture of experts: how many are chosen, how they are weighted, which weights an expert runs with.
#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "diagnose/hypothesis.h"

namespace paritrace {
namespace {

void ProposeCount(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const TopExpertsOp right = std::get<TopExpertsOp>(node.op);
  constexpr std::int64_t kMore = 8;
  for (std::int64_t used = 1; used <= std::min(right.experts, right.used + kMore); ++used) {
    if (used == right.used) continue;
    Node changed = node;
    std::get<TopExpertsOp>(changed.op).used = used;
    out.push_back({.cause = "moe.top_k",
                   .edit = site.With(changed),
                   .expected = right.used,
                   .found = used,
                   .statement = fmt::format("{} experts a token are used where the model has {}", used, right.used),
                   .fix = fmt::format("choose {} experts (num_experts_per_tok in the config)", right.used),
                   .parameters = 1});
  }
}

void ProposeWeighting(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const ExpertWeightsOp right = std::get<ExpertWeightsOp>(node.op);
  Node changed = node;
  std::get<ExpertWeightsOp>(changed.op).normalised = !right.normalised;
  out.push_back(
      {.cause = right.normalised ? "moe.weights_not_normalised" : "moe.weights_normalised",
       .edit = site.With(changed),
       .statement =
           right.normalised
               ? "the weights of the chosen experts are left as they are where the model makes them sum to one"
               : "the weights of the chosen experts are made to sum to one where the model leaves them as they are",
       .fix = right.normalised ? "divide the chosen probabilities by their sum"
                               : "use the probabilities over all experts (norm_topk_prob is false)"});
  changed = node;
  std::get<ExpertWeightsOp>(changed.op).reversed = true;
  out.push_back({.cause = "moe.expert_order",
                 .edit = site.With(changed),
                 .expected = "each expert with its own weight",
                 .found = "weights reversed",
                 .statement = "the weights of a token's experts are given to them in reverse order",
                 .fix = "keep weights and experts in one order"});
  if (node.id != site.target().id) return;
  for (const double factor : NiceNumbers(site.BestFactor(site.base()))) {
    if (std::fabs(factor - 1) < 1e-6) continue;
    std::get<ExpertWeightsOp>(changed.op) = {.normalised = right.normalised, .factor = factor};
    out.push_back({.cause = "moe.scale",
                   .edit = site.With(changed),
                   .expected = 1.0,
                   .found = factor,
                   .statement = fmt::format("the experts' weights are multiplied by {:g}", factor),
                   .fix = "leave them as they are",
                   .parameters = 1});
  }
}

// Experts of which every token that uses them is off, while other tokens are right. All where no token is right.
std::vector<std::int64_t> Suspects(const SearchSite& site, const Node& node) {
  constexpr double kNoises = 3;  // of a whole row, whose root mean square is sure to some percent
  const auto count = static_cast<std::int64_t>(std::get<ExpertsOp>(node.op).experts.size());
  const Value& chosen = site.replay().Input(node.inputs[1]);
  const Value& recorded = site.replay().recording().At(site.target().id).value;
  const Value &exact = site.replay().Exact(site.target().id), &sampled = site.replay().Sampled(site.target().id);
  std::vector<bool> seen(static_cast<std::size_t>(count)), cleared(static_cast<std::size_t>(count));
  for (std::int64_t t = 0; t < chosen.rows() && t < recorded.rows(); ++t) {
    double error = 0, signal = 0, noise = 0;
    for (std::size_t i = 0; i < recorded.row(t).size(); ++i) {
      error += std::pow(recorded.row(t)[i] - exact.row(t)[i], 2);
      signal += std::pow(exact.row(t)[i], 2);
      noise += std::pow(sampled.row(t)[i] - exact.row(t)[i], 2);
    }
    // The error of coarse storage is below a hundredth of a row; a wrong matrix gives a row of its own.
    const bool right = error <= std::max(1e-4 * signal, kNoises * kNoises * noise);
    for (const double id : chosen.row(t)) {
      if (!(id >= 0 && id < static_cast<double>(count))) continue;
      seen[static_cast<std::size_t>(id)] = true;
      if (right) cleared[static_cast<std::size_t>(id)] = true;
    }
  }
  std::vector<std::int64_t> suspects;
  for (std::int64_t id = 0; id < count; ++id) {
    if (seen[static_cast<std::size_t>(id)] && !cleared[static_cast<std::size_t>(id)]) suspects.push_back(id);
  }
  return suspects;
}

void ProposeOrder(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const ExpertsOp right = std::get<ExpertsOp>(node.op);
  const std::size_t count = right.experts.size();
  const auto propose = [&](const std::vector<std::size_t>& runs, const std::string& statement,
                           nlohmann::ordered_json found, int parameters) {
    Node changed = node;
    std::vector<std::int64_t> wrong;
    for (std::size_t i = 0; i < count; ++i) {
      std::get<ExpertsOp>(changed.op).experts[i] = right.experts[runs[i]];
      if (runs[i] != i) wrong.push_back(static_cast<std::int64_t>(i));
    }
    if (wrong.size() == count) wrong.clear();
    out.push_back({.cause = "moe.expert_order",
                   .edit = site.With(changed),
                   .expected = "expert i with its own weights",
                   .found = std::move(found),
                   .statement = statement,
                   .fix = "keep the experts' order when their weights are stacked",
                   .experts = std::move(wrong),
                   .parameters = parameters});
  };
  std::vector<std::size_t> own(count);
  std::iota(own.begin(), own.end(), 0);
  for (const std::size_t by : {std::size_t{1}, count - 1}) {
    if (by == 0 || by >= count) continue;
    std::vector<std::size_t> runs = own;
    for (std::size_t i = 0; i < count; ++i) runs[i] = (i + by) % count;
    propose(runs, fmt::format("expert i runs with the weights of expert i {} 1", by == 1 ? '+' : '-'),
            by == 1 ? "i + 1" : "i - 1", 0);
  }
  std::vector<std::size_t> reversed(own.rbegin(), own.rend());
  if (count > 2) propose(reversed, "the experts' weights stand in reverse order", "reversed", 0);
  constexpr std::size_t kSuspects = 4;
  const std::vector<std::int64_t> suspects = Suspects(site, node);
  if (suspects.empty() || suspects.size() > std::max(kSuspects, count / 2)) return;
  for (const std::int64_t suspect : suspects) {
    for (std::size_t other = 0; other < count; ++other) {
      const auto i = static_cast<std::size_t>(suspect);
      if (other == i) continue;
      std::vector<std::size_t> runs = own;
      runs[i] = other;
      propose(runs, fmt::format("expert {} runs with the weights of expert {}", i, other),
              fmt::format("{} for {}", other, i), 1);
      if (std::ranges::find(suspects, static_cast<std::int64_t>(other)) == suspects.end() || other < i) continue;
      runs = own;
      std::swap(runs[i], runs[other]);
      propose(runs, fmt::format("experts {} and {} run with each other's weights", i, other),
              fmt::format("{} and {} exchanged", i, other), 1);
    }
  }
}

// The mixture times a factor: the sum over the experts alone, or the bias with it.
void ProposeMixtureScale(const SearchSite& site, const Node& node, bool with_bias, std::vector<Hypothesis>& out) {
  const auto with = [&](double factor) {
    Node changed = node;
    auto& op = std::get<ExpertsOp>(changed.op);
    op.factor = factor;
    if (with_bias) op.bias_factor *= factor;
    return site.With(changed);
  };
  // The squared residual is a parabola in the factor: three points give its lowest.
  const auto squared = [&](double factor) { return std::pow(site.Residual(with(factor)), 2); };
  const double at0 = squared(0), at1 = squared(1), at2 = squared(2);
  const double curvature = (at0 - 2 * at1 + at2) / 2;
  const double best = (at0 - at1 + curvature) / (2 * curvature);
  if (!std::isfinite(best)) return;
  for (const double factor : NiceNumbers(best)) {
    if (std::fabs(factor - 1) < 1e-6) continue;
    out.push_back({.cause = "moe.scale",
                   .edit = with(factor),
                   .expected = 1.0,
                   .found = factor,
                   .statement = fmt::format("the mixture is multiplied by {:g}{}", factor,
                                            node.bias == kAbsent ? ""
                                            : with_bias          ? ", its bias too"
                                                                 : " before the bias"),
                   .fix = "leave it as it is",
                   .parameters = 1});
  }
}

void ProposeInside(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const ExpertsOp right = std::get<ExpertsOp>(node.op);
  const auto with = [&](const auto& change) {
    Node changed = node;
    change(std::get<ExpertsOp>(changed.op));
    return site.With(changed);
  };
  using enum Activation;
  for (const Activation other : {kSilu, kGeluErf, kGeluTanh, kGeluQuick, kRelu, kReluSquared, kIdentity}) {
    if (Name(other) == Name(right.function)) continue;
    out.push_back({.cause = "mlp.activation",
                   .edit = with([&](ExpertsOp& op) { op.function = other; }),
                   .expected = Name(right.function),
                   .found = Name(other),
                   .statement = fmt::format("the experts' activation is {} where the model has {}", Name(other),
                                            Name(right.function)),
                   .fix = fmt::format("use {} (hidden_act in the config)", Name(right.function))});
  }
  if (!right.experts.empty() && right.experts[0].gate != kAbsent) {
    out.push_back({.cause = "mlp.gate_up_swapped",
                   .edit = with([](ExpertsOp& op) {
                     for (Expert& expert : op.experts) std::swap(expert.gate, expert.up);
                   }),
                   .expected = "act(gate) * up",
                   .found = "gate * act(up)",
                   .statement = "the experts' gate and up projections are exchanged",
                   .fix = "compute act(gate) * up; look at how a fused gate/up matrix is split"});
  }
  if (node.bias != kAbsent) {
    const auto used = static_cast<double>(site.replay().Input(node.inputs[1]).cols());
    out.push_back({.cause = "moe.bias",
                   .edit = with([](ExpertsOp& op) { op.bias_factor = 0; }),
                   .expected = 1.0,
                   .found = 0.0,
                   .statement = "the experts' bias is not added",
                   .fix = "add it once, after the sum over the experts"});
    out.push_back({.cause = "moe.bias",
                   .edit = with([&](ExpertsOp& op) { op.bias_factor = used; }),
                   .expected = 1.0,
                   .found = used,
                   .statement = "the experts' bias is added by each of a token's experts",
                   .fix = "add it once, after the sum over the experts"});
  }
  if (node.id != site.target().id) return;
  ProposeMixtureScale(site, node, /*with_bias=*/false, out);
  if (node.bias != kAbsent) ProposeMixtureScale(site, node, /*with_bias=*/true, out);
}

// The gate of the expert that all tokens use: left out, or on the mixture in its place.
void ProposeSharedGate(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  Node open = node;
  std::get<GateOp>(open.op).applied = false;
  out.push_back({.cause = "moe.shared_gate",
                 .edit = site.With(open),
                 .expected = "sigmoid(gate) * shared expert",
                 .found = "no gate",
                 .statement = "the shared expert's gate is not applied",
                 .fix = "multiply the shared expert's output by the sigmoid of its gate"});
  for (const Node& sum : site.segment()) {
    if (!std::holds_alternative<AddOp>(sum.op) || sum.inputs.size() != 2 || sum.inputs[1] != node.id) continue;
    Node gate = node, changed = sum;
    changed.inputs = {node.id, node.inputs[0]};
    gate.inputs[0] = sum.inputs[0];
    out.push_back({.cause = "moe.shared_gate",
                   .edit = site.With(std::vector<Node>{gate, changed}),
                   .expected = "gate on the shared expert",
                   .found = "gate on the mixture",
                   .statement = "the shared expert's gate is applied to the mixture",
                   .fix = "apply it to the shared expert's output"});
  }
}

// A layer that runs the expert of all tokens alone, as a dense layer would.
void ProposeDense(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  if (!node.site.ends_with("mlp.out") || node.inputs.size() != 2) return;
  Node dense = node;
  dense.inputs = {node.inputs[1]};
  out.push_back({.cause = "moe.schedule",
                 .edit = site.With(dense),
                 .expected = "a mixture of experts",
                 .found = "a dense layer",
                 .statement = "only the shared expert runs: the layer is dense where the config has a mixture",
                 .fix = "take from the config which layers are mixtures, and count layers from 0"});
}

// Routers run in f32 whatever the model's dtype; one that rounds its probabilities to the dtype breaks ties otherwise.
void ProposePrecision(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const Arithmetic& arithmetic = site.replay().arithmetic();
  if (!node.wide || arithmetic.storage == arithmetic.inner) return;
  const std::string_view storage = Name(arithmetic.storage), inner = Name(arithmetic.inner);
  Node changed = node;
  changed.wide = false;
  if (auto* weights = std::get_if<ExpertWeightsOp>(&changed.op)) weights->stored_sum = true;
  out.push_back(
      {.cause = "precision",
       .edit = site.With(changed),
       .expected = fmt::format("router in {}", inner),
       .found = fmt::format("router in {}", storage),
       .statement =
           fmt::format("the router's {} are kept in {} where the model has {}",
                       std::holds_alternative<RouterProbsOp>(node.op) ? "probabilities" : "weights", storage, inner),
       .fix = fmt::format("convert the router's logits to {} before its softmax, and keep the result so", inner)});
}

}  // namespace

void ProposeExperts(const SearchSite& site, std::vector<Hypothesis>& out) {
  for (const Node& node : site.segment()) {
    if (std::holds_alternative<TopExpertsOp>(node.op)) ProposeCount(site, node, out);
    if (std::holds_alternative<RouterProbsOp>(node.op) || std::holds_alternative<ExpertWeightsOp>(node.op)) {
      ProposePrecision(site, node, out);
    }
    if (std::holds_alternative<ExpertWeightsOp>(node.op)) ProposeWeighting(site, node, out);
    if (std::holds_alternative<GateOp>(node.op)) ProposeSharedGate(site, node, out);
    if (std::holds_alternative<AddOp>(node.op)) ProposeDense(site, node, out);
    if (!std::holds_alternative<ExpertsOp>(node.op)) continue;
    ProposeInside(site, node, out);
    ProposeOrder(site, node, out);
  }
}

}  // namespace paritrace
