// Mistakes of the feed-forward block: the activation, and which projection it is applied to.
#include <fmt/format.h>

#include "diagnose/hypothesis.h"

namespace paritrace {

void ProposeMlp(const SearchSite& site, std::vector<Hypothesis>& out) {
  for (const Node& node : site.segment()) {
    const auto* right = std::get_if<ActivationOp>(&node.op);
    if (right == nullptr || node.pooled) continue;
    using enum Activation;
    for (const Activation other :
         {kSilu, kGeluErf, kGeluTanh, kGeluQuick, kRelu, kReluSquared, kSigmoid, kTanh, kIdentity}) {
      if (Name(other) == Name(right->function)) continue;
      Node changed = node;
      changed.op = ActivationOp{other};
      out.push_back(
          {.cause = "mlp.activation",
           .edit = site.With(changed),
           .expected = Name(right->function),
           .found = Name(other),
           .statement = fmt::format("the activation is {} where the model has {}", Name(other), Name(right->function)),
           .fix = fmt::format("use {} (hidden_act in the config)", Name(right->function))});
    }
    if (node.inputs.size() == 2) {
      Node changed = node;
      std::swap(changed.inputs[0], changed.inputs[1]);
      out.push_back(
          {.cause = "mlp.gate_up_swapped",
           .edit = site.With(changed),
           .expected = "act(gate) * up",
           .found = "gate * act(up)",
           .statement = "the activation is applied to the up projection, not to the gate: gate and up are exchanged",
           .fix = "compute act(gate) * up; look at how a fused gate/up matrix is split"});
    }
  }
}

}  // namespace paritrace
