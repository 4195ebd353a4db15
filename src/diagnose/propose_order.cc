// A norm on the wrong side of a residual sum.
#include <fmt/format.h>

#include "diagnose/hypothesis.h"

namespace paritrace {
namespace {

bool IsNorm(const Node& node) { return std::holds_alternative<NormOp>(node.op); }
bool IsSumOfTwo(const Node& node) { return std::holds_alternative<AddOp>(node.op) && node.inputs.size() == 2; }

// `norm` and `sum` with each other's work; whichever comes first in the graph feeds the other.
std::vector<Node> Exchanged(const Node& first, const Node& second, const Node& norm, std::vector<NodeId> into_first,
                            std::vector<NodeId> into_second) {
  Node a = first, b = second;
  a.op = second.op;
  b.op = first.op;
  a.inputs = std::move(into_first);
  b.inputs = std::move(into_second);
  for (Node* node : {&a, &b}) {
    const bool is_norm = std::holds_alternative<NormOp>(node->op);
    node->weight = is_norm ? norm.weight : kAbsent;
    node->bias = is_norm ? norm.bias : kAbsent;
  }
  return {a, b};
}

Hypothesis Order(Edit edit, std::string statement, std::string fix) {
  return {.cause = "norm.order", .edit = std::move(edit), .statement = std::move(statement), .fix = std::move(fix)};
}

const Node* FindIn(const std::vector<Node>& nodes, NodeId id) {
  for (const Node& node : nodes) {
    if (node.id == id) return &node;
  }
  return nullptr;
}

}  // namespace

void ProposeOrder(const SearchSite& site, std::vector<Hypothesis>& out) {
  const std::string before_sum = "normalise the sublayer's output, then add it to the stream",
                    after_sum = "add the sublayer's output to the stream, then normalise";
  for (const Node& node : site.segment()) {
    // The model normalises the branch, then adds it.
    const Node* branch = IsSumOfTwo(node) ? FindIn(site.segment(), node.inputs[1]) : nullptr;
    if (branch != nullptr && IsNorm(*branch) && node.inputs[0] < branch->id) {
      out.push_back(
          Order(site.With(Exchanged(*branch, node, *branch, {node.inputs[0], branch->inputs[0]}, {branch->id})),
                "the sum with the residual stream is normalised where the model normalises the sublayer's output alone",
                before_sum));
    }
    // The model adds, then normalises the sum.
    const Node* sum = IsNorm(node) ? FindIn(site.segment(), node.inputs[0]) : nullptr;
    if (sum != nullptr && IsSumOfTwo(*sum) && sum->site.ends_with("residual")) {
      out.push_back(Order(site.With(Exchanged(*sum, node, node, {sum->inputs[1]}, {sum->inputs[0], sum->id})),
                          "the sublayer's output is normalised alone and then added where the model normalises the sum",
                          after_sum));
    }
  }
  // With the sum itself recorded, the stream shows up where the next layer begins.
  const Node& target = site.target();
  if (!std::holds_alternative<AddOp>(target.op) || target.inputs.size() != 1) return;
  const Node& norm = site.graph().nodes[static_cast<std::size_t>(target.inputs[0])];
  if (!IsNorm(norm)) return;
  const Node& sum = site.graph().nodes[static_cast<std::size_t>(norm.inputs[0])];
  if (!IsSumOfTwo(sum)) return;
  Node changed = target;
  changed.inputs = {sum.inputs[0], norm.id};
  out.push_back(Order(site.With(changed),
                      "the sublayer's output is normalised alone and then added where the model normalises the sum",
                      after_sum));
}

}  // namespace paritrace
