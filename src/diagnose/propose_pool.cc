// Mistakes in the tail of an embedding model: the way of pooling, the normalisation, the dense layer.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "diagnose/hypothesis.h"
#include "graph/kernel_fault.h"

namespace paritrace {
namespace {

std::string NamesOf(const std::vector<PoolMode>& modes) {
  std::string names;
  for (const PoolMode mode : modes) names += fmt::format("{}{}", names.empty() ? "" : " and ", Name(mode));
  return names;
}

// Rows [begin, tokens - cut) only.
void KeepTokens(Value& x, std::int64_t begin, std::int64_t cut) {
  Value kept({x.rows() - begin - cut, x.cols()});
  for (std::int64_t t = 0; t < kept.rows(); ++t) std::ranges::copy(x.row(begin + t), kept.row(t).begin());
  x = std::move(kept);
}

void Normalise(Value& x) {
  for (std::int64_t t = 0; t < x.rows(); ++t) {
    double squares = 0;
    for (const double v : x.row(t)) squares += v * v;
    const double length = std::sqrt(squares);
    for (double& v : x.row(t)) v = length > 0 ? v / length : v;
  }
}

void ProposeMode(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const std::string right = NamesOf(std::get<PoolOp>(node.op).modes);
  const auto propose = [&](const Node& changed, std::string found) {
    out.push_back({.cause = "pool.mode",
                   .edit = site.With(changed),
                   .expected = right,
                   .found = found,
                   .statement = fmt::format("tokens are pooled by {} where the model pools by {}", found, right),
                   .fix = fmt::format("pool by {}, as the model's pooling module says", right)});
  };
  using enum PoolMode;
  // A sum divided by another number of tokens is the same vector once it is normalised.
  const bool length_counts =
      std::ranges::none_of(site.segment(), [](const Node& other) { return std::holds_alternative<UnitOp>(other.op); });
  for (const PoolMode mode : {kFirst, kMean, kMax, kLast, kMeanSqrt, kWeightedMean}) {
    if (Name(mode) == right || (mode == kMeanSqrt && !length_counts)) continue;
    Node changed = node;
    changed.op = PoolOp{{mode}};
    propose(changed, std::string(Name(mode)));
  }
  struct Left {
    std::int64_t begin, cut;
    const char* what;
  };
  for (const Left& left : {Left{1, 0, "without the first token"}, Left{0, 1, "without the last token"},
                           Left{1, 1, "without the first and the last token"}}) {
    if (site.replay().recording().run.count() <= left.begin + left.cut) continue;
    for (const PoolMode mode : {kMean, kMax}) {
      auto fault = std::make_shared<KernelFault>();
      fault->input = [left](std::vector<Value>& inputs) { KeepTokens(inputs[0], left.begin, left.cut); };
      Node changed = node;
      changed.op = PoolOp{{mode}};
      changed.fault = std::move(fault);
      propose(changed, fmt::format("{} {}", Name(mode), left.what));
    }
  }
}

void ProposeNormalised(const SearchSite& site, const Node& node, const char* found, const char* statement,
                       decltype(KernelFault::input) input, decltype(KernelFault::output) output,
                       std::vector<Hypothesis>& out) {
  auto fault = std::make_shared<KernelFault>();
  fault->input = std::move(input);
  fault->output = std::move(output);
  Node changed = node;
  changed.fault = std::move(fault);
  out.push_back({.cause = "pool.normalise",
                 .edit = site.With(changed),
                 .expected = "as stored by the pooling modules",
                 .found = found,
                 .statement = statement,
                 .fix = "normalise where the model folder has a Normalize module, and nowhere else"});
}

void ProposeNorms(const SearchSite& site, const Node& node, bool has_unit, std::vector<Hypothesis>& out) {
  if (std::holds_alternative<UnitOp>(node.op)) {
    Node changed = node;
    changed.op = AddOp{};
    out.push_back({.cause = "pool.normalise",
                   .edit = site.With(changed),
                   .expected = "length 1",
                   .found = "not normalised",
                   .statement = "the pooled vector is not brought to length 1",
                   .fix = "divide the pooled vector by its length, as the Normalize module says"});
  }
  if (std::holds_alternative<PoolOp>(node.op)) {
    ProposeNormalised(
        site, node, "each token's row normalised", "each token's row is brought to length 1 before pooling",
        [](std::vector<Value>& inputs) { Normalise(inputs[0]); }, {}, out);
  }
  if (node.id == site.target().id && !has_unit) {
    ProposeNormalised(
        site, node, "length 1", "the pooled vector is brought to length 1 where the model leaves it as it is", {},
        [](std::span<const Value* const>, Value& value) { Normalise(value); }, out);
  }
}

void ProposeDenseActivations(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const Activation right = std::get<ActivationOp>(node.op).function;
  using enum Activation;
  for (const Activation other : {kIdentity, kTanh, kGeluErf, kGeluTanh, kRelu, kSilu, kSigmoid}) {
    if (other == right) continue;
    Node changed = node;
    changed.op = ActivationOp{other};
    out.push_back(
        {.cause = "pool.projection",
         .edit = site.With(changed),
         .expected = Name(right),
         .found = Name(other),
         .statement = fmt::format("the activation behind the pooling's dense layer is {} where the model has {}",
                                  Name(other), Name(right)),
         .fix = "apply the activation that the Dense module names"});
  }
}

// The dense layers left out, all of them or one, with the activation that follows each.
void ProposeProjections(const SearchSite& site, std::vector<Hypothesis>& out) {
  std::vector<Node> without;
  const auto propose = [&](const std::vector<Node>& nodes, const char* statement) {
    out.push_back({.cause = "pool.projection",
                   .edit = site.With(nodes),
                   .expected = "dense",
                   .found = "none",
                   .statement = statement,
                   .fix = "apply the model folder's modules, all of them, in order"});
  };
  for (const Node& node : site.segment()) {
    if (!node.pooled) continue;
    const bool dense = std::holds_alternative<LinearOp>(node.op);
    const bool follows = std::holds_alternative<ActivationOp>(node.op);
    if (!dense && !follows) continue;
    Node changed = node;
    changed.op = AddOp{};
    changed.weight = changed.bias = kAbsent;
    if (follows) ProposeDenseActivations(site, node, out);
    without.push_back(changed);
  }
  if (!without.empty()) propose(without, "the dense layer behind the pooling is left out");
}

}  // namespace

void ProposePool(const SearchSite& site, std::vector<Hypothesis>& out) {
  if (!site.target().pooled) return;
  bool has_unit = false;
  for (const Node& node : site.segment()) has_unit |= std::holds_alternative<UnitOp>(node.op);
  for (const Node& node : site.segment()) {
    if (!node.pooled || node.fault != nullptr) continue;
    if (std::holds_alternative<PoolOp>(node.op)) ProposeMode(site, node, out);
    ProposeNorms(site, node, has_unit, out);
  }
  ProposeProjections(site, out);
}

}  // namespace paritrace
