#include "graph/graph.h"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"

namespace paritrace {

NodeId Graph::Add(Node node) {
  node.id = static_cast<NodeId>(nodes.size());
  for (const NodeId input : node.inputs) {
    if (input < 0 || input >= node.id) throw InternalError(fmt::format("node {} uses a later node", node.site));
  }
  if (!by_site_.emplace(node.site, node.id).second) throw InternalError(fmt::format("two nodes at site {}", node.site));
  nodes.push_back(std::move(node));
  return nodes.back().id;
}

WeightId Graph::AddWeight(Weight weight) {
  weights.push_back(std::move(weight));
  return static_cast<WeightId>(weights.size()) - 1;
}

const Node* Graph::Find(std::string_view site) const {
  const auto found = by_site_.find(std::string(site));
  return found == by_site_.end() ? nullptr : &nodes[static_cast<std::size_t>(found->second)];
}

std::vector<NodeId> Graph::UsersOf(NodeId id) const {
  std::vector<NodeId> users;
  for (const Node& node : nodes) {
    if (std::ranges::find(node.inputs, id) != node.inputs.end()) users.push_back(node.id);
  }
  return users;
}

namespace {
constexpr std::array<std::pair<std::string_view, Activation>, 17> kActivationNames = {{
    {"silu", Activation::kSilu},
    {"swish", Activation::kSilu},
    {"gelu", Activation::kGeluErf},
    {"gelu_new", Activation::kGeluNew},
    {"gelu_pytorch_tanh", Activation::kGeluTanh},
    {"gelu_tanh", Activation::kGeluTanh},
    {"gelu_fast", Activation::kGeluTanh},
    {"gelu_python", Activation::kGeluErf},
    {"gelu_erf", Activation::kGeluErf},
    {"quick_gelu", Activation::kGeluQuick},
    {"gelu_quick", Activation::kGeluQuick},
    {"relu", Activation::kRelu},
    {"relu2", Activation::kReluSquared},
    {"sigmoid", Activation::kSigmoid},
    {"tanh", Activation::kTanh},
    {"linear", Activation::kIdentity},
    {"identity", Activation::kIdentity},
}};
}  // namespace

std::string_view FamilyOf(const Operation& op) {
  if (std::holds_alternative<NormOp>(op)) return "norm";
  if (std::holds_alternative<LinearOp>(op)) return "linear";
  if (std::holds_alternative<RopeOp>(op)) return "rope";
  if (std::holds_alternative<ScoresOp>(op)) return "scores";
  if (std::holds_alternative<SoftmaxOp>(op)) return "softmax";
  if (std::holds_alternative<ContextOp>(op)) return "context";
  if (std::holds_alternative<ActivationOp>(op)) return "activation";
  if (std::holds_alternative<AddOp>(op)) return "add";
  if (std::holds_alternative<EmbedOp>(op)) return "embed";
  if (std::holds_alternative<RouterProbsOp>(op) || std::holds_alternative<ExpertWeightsOp>(op) ||
      std::holds_alternative<ExpertsOp>(op))
    return "moe";
  return "other";
}

std::string_view Name(Activation activation) {
  switch (activation) {
    case Activation::kIdentity: return "identity";
    case Activation::kSilu: return "silu";
    case Activation::kGeluErf: return "gelu";
    case Activation::kGeluTanh:
    case Activation::kGeluNew: return "gelu_tanh";
    case Activation::kGeluQuick: return "quick_gelu";
    case Activation::kRelu: return "relu";
    case Activation::kReluSquared: return "relu2";
    case Activation::kSigmoid: return "sigmoid";
    case Activation::kTanh: return "tanh";
  }
  return "?";
}

std::string_view Name(PoolMode mode) {
  switch (mode) {
    case PoolMode::kFirst: return "cls";
    case PoolMode::kLast: return "lasttoken";
    case PoolMode::kMean: return "mean";
    case PoolMode::kMax: return "max";
    case PoolMode::kMeanSqrt: return "mean_sqrt_len_tokens";
    case PoolMode::kWeightedMean: return "weightedmean";
  }
  return "?";
}

std::optional<Activation> ParseActivation(std::string_view name) {
  for (const auto& [known, activation] : kActivationNames) {
    if (known == name) return activation;
  }
  return std::nullopt;
}

}  // namespace paritrace
