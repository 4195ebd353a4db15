#include "diagnose/twins.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>

namespace paritrace {
namespace {

// "layers.3.attn.q" -> "attn.q"; ".layers.3.attn.output_norm" -> ".attn.output_norm".
std::string RoleOf(const Node& node) {
  const std::string prefix = fmt::format("layers.{}.", node.layer);
  std::string role = node.site;
  if (const std::size_t at = role.find(prefix); at != std::string::npos) role.erase(at, prefix.size());
  return role;
}

const Node& At(const Graph& graph, NodeId id) { return graph.nodes[static_cast<std::size_t>(id)]; }

bool HaveOneShape(const Graph& graph, const Node& a, const Node& b) {
  if ((a.weight == kAbsent) != (b.weight == kAbsent) || (a.bias == kAbsent) != (b.bias == kAbsent)) return false;
  return a.weight == kAbsent || graph.weights[static_cast<std::size_t>(a.weight)].tensor.shape ==
                                    graph.weights[static_cast<std::size_t>(b.weight)].tensor.shape;
}

// One role in all layers of the segment, with the first layer's node as its leader.
Twins InEveryLayer(const Graph& graph, const std::vector<NodeId>& segment) {
  std::map<std::string, std::vector<NodeId>> by_role;
  for (const NodeId id : segment) {
    if (At(graph, id).layer != kAbsent) by_role[RoleOf(At(graph, id))].push_back(id);
  }
  Twins twins{.where = "in every layer"};
  for (const auto& [role, ids] : by_role) {
    if (ids.size() < 2) continue;
    twins.leaders.push_back(ids[0]);
    twins.of[ids[0]].assign(ids.begin() + 1, ids.end());
  }
  std::ranges::sort(twins.leaders);
  return twins;
}

// All norms that are alike, whatever their place.
Twins AllNorms(const Graph& graph, const std::vector<NodeId>& segment) {
  Twins twins{.where = "in all norms"};
  std::vector<NodeId> norms;
  for (const NodeId id : segment) {
    const Node& node = At(graph, id);
    if (!std::holds_alternative<NormOp>(node.op)) continue;
    if (norms.empty() || (node.op == At(graph, norms[0]).op && HaveOneShape(graph, node, At(graph, norms[0]))))
      norms.push_back(id);
  }
  if (norms.size() < 2) return twins;
  twins.leaders = {norms[0]};
  twins.of[norms[0]].assign(norms.begin() + 1, norms.end());
  return twins;
}

// The other layer's weight of the same role, where the mistake took one of its own layer; else the same weight.
WeightId SameWeight(const Graph& graph, WeightId weight, int own_layer, int twin_layer) {
  if (weight == kAbsent) return kAbsent;
  const Weight& taken = graph.weights[static_cast<std::size_t>(weight)];
  if (taken.layer == kAbsent || taken.layer != own_layer) return weight;
  for (std::size_t id = 0; id < graph.weights.size(); ++id) {
    const Weight& other = graph.weights[id];
    if (other.role == taken.role && other.layer == twin_layer && other.expert == taken.expert)
      return static_cast<WeightId>(id);
  }
  return kAbsent;
}

}  // namespace

std::vector<Twins> TwinsAmong(const Graph& graph, const std::vector<NodeId>& segment) {
  std::vector<Twins> found;
  for (Twins& twins : std::vector<Twins>{InEveryLayer(graph, segment), AllNorms(graph, segment)}) {
    if (!twins.leaders.empty()) found.push_back(std::move(twins));
  }
  return found;
}

std::optional<Node> SameChange(const Graph& graph, const Node& changed, NodeId twin_id) {
  const Node &base = At(graph, changed.id), &twin = At(graph, twin_id);
  if (!HaveOneShape(graph, base, twin)) return std::nullopt;
  Node result = twin;
  if (!(changed.op == base.op)) {
    result.op = changed.op;
    if (!(twin.op == base.op)) {  // layers with a window beside layers without
      auto* to = std::get_if<ScoresOp>(&result.op);
      const auto *from = std::get_if<ScoresOp>(&base.op), *own = std::get_if<ScoresOp>(&twin.op);
      if (to == nullptr || from == nullptr || own == nullptr) return std::nullopt;
      ScoresOp without_window = *own;
      without_window.window = from->window;
      if (!(without_window == *from)) return std::nullopt;
      if (to->window == from->window) to->window = own->window;
    }
  }
  for (std::size_t i = 0; i < changed.inputs.size(); ++i) {
    if (changed.inputs == base.inputs) break;
    if (i == 0) result.inputs.clear();
    const auto known = std::ranges::find(base.inputs, changed.inputs[i]);
    if (known != base.inputs.end()) {
      const auto which = static_cast<std::size_t>(known - base.inputs.begin());
      if (which >= twin.inputs.size()) return std::nullopt;
      result.inputs.push_back(twin.inputs[which]);
      continue;
    }
    const NodeId other = twin.id + (changed.inputs[i] - base.id);
    if (other < 0 || other >= twin.id || RoleOf(At(graph, other)) != RoleOf(At(graph, changed.inputs[i])))
      return std::nullopt;
    result.inputs.push_back(other);
  }
  if (changed.weight != base.weight) {
    result.weight = SameWeight(graph, changed.weight, base.layer, twin.layer);
    if (changed.weight != kAbsent && result.weight == kAbsent) return std::nullopt;
  }
  if (changed.bias != base.bias) {
    result.bias = SameWeight(graph, changed.bias, base.layer, twin.layer);
    if (changed.bias != kAbsent && result.bias == kAbsent) return std::nullopt;
  }
  result.marks = changed.marks;
  result.fault = changed.fault;
  return result;
}

}  // namespace paritrace
