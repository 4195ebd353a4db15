// Mistakes that only BitNet's layers can have: the norms before its output projections, and the two scales of a projection.
#include <array>
#include <cmath>
#include <memory>

#include <fmt/format.h>

#include "diagnose/hypothesis.h"
#include "graph/kernel_fault.h"

namespace paritrace {
namespace {

void ProposeNoNorm(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  Node changed = node;
  changed.op = AddOp{};
  changed.weight = changed.bias = kAbsent;
  const bool attention = node.site.ends_with("attn.ctx_norm");
  out.push_back(
      {.cause = "bitnet.subnorm",
       .edit = site.With(changed),
       .statement = fmt::format("the norm before the {} projection is left out", attention ? "output" : "down"),
       .fix = "normalise what enters the projection, before it is rounded to int8"});
}

void ProposeScale(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const LinearOp right = std::get<LinearOp>(node.op);
  if (right.bits == BitLinear::kOnline) return;
  const std::array<std::pair<double, const char*>, 2> others = {
      {{1.0, "is left out"}, {1.0 / right.weight_scale, "is inverted"}}};
  for (const auto& [scale, what] : others) {
    if (std::fabs(scale / right.weight_scale - 1) < 1e-6) continue;
    Node changed = node;
    std::get<LinearOp>(changed.op).weight_scale = scale;
    out.push_back({.cause = "bitnet.weight_scale",
                   .edit = site.With(changed),
                   .expected = right.weight_scale,
                   .found = scale,
                   .statement = fmt::format("the scale of the ternary weights {}", what),
                   .fix = right.bits == BitLinear::kCodes ? "divide the product by the weight's scale"
                                                          : "multiply the product by the weight's scale"});
  }
}

void ProposeInt8(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const auto propose = [&](Int8Scope scope, double range, const char* found, const char* statement) {
    Node changed = node;
    std::get<LinearOp>(changed.op).int8 = scope;
    std::get<LinearOp>(changed.op).int8_range = range;
    out.push_back({.cause = "bitnet.activation_quant",
                   .edit = site.With(changed),
                   .expected = "127 over the largest of each token",
                   .found = found,
                   .statement = statement,
                   .fix = "round each token's activations to int8 by 127 over their largest magnitude"});
  };
  propose(Int8Scope::kTensor, 127, "per tensor",
          "activations are rounded to int8 by the largest of all tokens, not of each");
  propose(Int8Scope::kMissing, 127, "none", "activations are not rounded to int8");
  propose(Int8Scope::kToken, 128, "128", "activations are rounded with 128 levels where the model has 127");
}

// Hugging Face's packed rows: four codes of two bits a byte, each plus one.
void ProposePacking(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const Weight& weight = site.graph().weights[static_cast<std::size_t>(node.weight)];
  if (weight.tensor.dtype != DType::kTernaryRows || node.fault != nullptr) return;
  const auto propose = [&](WeightReading reading, Hypothesis hypothesis) {
    Node changed = node;
    auto fault = std::make_shared<KernelFault>();
    fault->reading = std::move(reading);
    changed.fault = std::move(fault);
    hypothesis.edit = site.With(changed);
    out.push_back(std::move(hypothesis));
  };
  propose({.nibbles = Nibbles::kNeighbourRows},
          {.cause = "quant.nibble_order",
           .expected = "a quarter of the rows apart",
           .found = "neighbouring rows",
           .statement = fmt::format("{}: the four codes of a byte are taken for neighbouring rows", weight.name),
           .fix = "place the codes of a byte a quarter of the rows apart, lowest bits first"});
  propose({.shift = 1},
          {.cause = "quant.zero_point",
           .expected = "1",
           .found = "0",
           .statement = fmt::format("{}: nothing is subtracted from the codes, which are stored plus one", weight.name),
           .fix = "subtract 1 from each code"});
}

}  // namespace

void ProposeBitNet(const SearchSite& site, std::vector<Hypothesis>& out) {
  for (const Node& node : site.segment()) {
    if (std::holds_alternative<NormOp>(node.op) &&
        (node.site.ends_with("attn.ctx_norm") || node.site.ends_with("mlp.act_norm"))) {
      ProposeNoNorm(site, node, out);
    }
    const auto* linear = std::get_if<LinearOp>(&node.op);
    if (linear == nullptr || linear->bits == BitLinear::kNone) continue;
    ProposeScale(site, node, out);
    ProposeInt8(site, node, out);
    ProposePacking(site, node, out);
  }
}

}  // namespace paritrace
