#include "diagnose/replay.h"

#include <algorithm>
#include <array>
#include <set>

#include "core/error.h"
#include "graph/kernel_fault.h"

namespace paritrace {
namespace {

// Rows of `computed` replaced by those that were recorded.
Value WithRecordedRows(const Value& computed, const RecordedSite& site) {
  Value merged = computed;
  const bool scores = computed.shape.size() == 3;
  const std::int64_t tokens = static_cast<std::int64_t>(site.token_known.size());
  for (std::int64_t r = 0; r < computed.rows(); ++r) {
    if (site.token_known[static_cast<std::size_t>(scores ? r % tokens : r)])
      std::ranges::copy(site.value.row(r), merged.row(r).begin());
  }
  return merged;
}

const Node& NodeIn(const Graph& graph, const Edit& edit, NodeId id) {
  const auto found = edit.find(id);
  return found == edit.end() ? graph.nodes[static_cast<std::size_t>(id)] : found->second;
}

}  // namespace

Replay::Replay(const Graph& graph, const Recording& recording, Arithmetic arithmetic, bool with_free)
    : graph_(graph), recording_(recording), passes_({&exact_, &predicted_, &sampled_}) {
  if (with_free) passes_.push_back(&free_);
  exact_.arithmetic = free_.arithmetic = *FindArithmetic("f64");
  sampled_.arithmetic = WithSequentialSums(arithmetic);
  predicted_.arithmetic = std::move(arithmetic);
  for (PassState* pass : passes_) {
    pass->values.resize(graph.nodes.size());
    pass->merged.resize(graph.nodes.size());
  }
}

const Replay::PassState& Replay::StateOf(Pass pass) const {
  return pass == Pass::kExact ? exact_ : pass == Pass::kPredicted ? predicted_ : sampled_;
}

const Value& Replay::Seen(const PassState& pass, NodeId id) const {
  const auto at = static_cast<std::size_t>(id);
  if (&pass == &free_ || !recording_.Has(id)) return pass.values[at];
  return recording_.At(id).complete() ? recording_.At(id).value : *pass.merged[at];
}

void Replay::Merge(PassState& pass, NodeId id) const {
  if (&pass == &free_ || !recording_.Has(id) || recording_.At(id).complete()) return;
  pass.merged[static_cast<std::size_t>(id)] =
      WithRecordedRows(pass.values[static_cast<std::size_t>(id)], recording_.At(id));
}

// A flash kernel stores neither scores nor probabilities; where one of them was recorded, the kernel was not used.
bool Replay::FusesAttention(const Node& node, const PassState& pass) const {
  if (!pass.arithmetic.flash_attention || !std::holds_alternative<ContextOp>(node.op)) return false;
  const NodeId probs = node.inputs[0];
  const NodeId scores = graph_.nodes[static_cast<std::size_t>(probs)].inputs[0];
  return !recording_.Has(probs) && !recording_.Has(scores);
}

Value Replay::ComputeForced(const Node& node, const PassState& pass, const std::function<const Value&(NodeId)>& input,
                            const Edit& edit) const {
  if (FusesAttention(node, pass)) {
    const Node& scores = NodeIn(graph_, edit, NodeIn(graph_, edit, node.inputs[0]).inputs[0]);
    std::vector<Value> qk = {input(scores.inputs[0]), input(scores.inputs[1])}, pv = {Value(), input(node.inputs[1])};
    if (scores.fault != nullptr && scores.fault->input) scores.fault->input(qk);
    if (node.fault != nullptr && node.fault->input) node.fault->input(pv);
    Value out = ComputeFlashContext(std::get<ScoresOp>(scores.op), std::get<ContextOp>(node.op), qk[0], qk[1], pv[1],
                                    recording_.run, pass.arithmetic);
    const std::array<const Value*, 2> inputs = {&pv[0], &pv[1]};
    if (node.fault != nullptr && node.fault->output) node.fault->output(inputs, out);
    return out;
  }
  std::vector<const Value*> inputs;
  for (const NodeId id : node.inputs) inputs.push_back(&input(id));
  return Compute(node, inputs, graph_, recording_.run, pass.arithmetic);
}

void Replay::Run(const Progress& progress, NodeId last, NodeId first) {
  for (const Node& node : graph_.nodes) {
    if (node.id < first) continue;
    if (last != kAbsent && node.id > last) return;
    for (PassState* pass : passes_) {
      pass->values[static_cast<std::size_t>(node.id)] =
          ComputeForced(node, *pass, [&](NodeId id) -> const Value& { return Seen(*pass, id); }, {});
      Merge(*pass, node.id);
    }
    if (progress) progress(static_cast<std::size_t>(node.id) + 1, graph_.nodes.size());
  }
}

Value Replay::Evaluate(NodeId target, Pass which, const Edit& edit) const {
  const PassState& pass = StateOf(which);
  // Nodes whose value an edit changes, up to the next recorded value: only those are computed again.
  std::unordered_map<NodeId, bool> touched;
  std::unordered_map<NodeId, Value> again;
  const std::function<bool(NodeId)> is_touched = [&](NodeId id) -> bool {
    const auto known = touched.find(id);
    if (known != touched.end()) return known->second;
    bool result = edit.contains(id);
    for (const NodeId input : NodeIn(graph_, edit, id).inputs) {
      if (result) break;
      if (!recording_.Has(input) || !recording_.At(input).complete()) result = is_touched(input);
    }
    return touched[id] = result;
  };
  const std::function<const Value&(NodeId)> seen = [&](NodeId id) -> const Value& {
    if (recording_.Has(id) && recording_.At(id).complete()) return recording_.At(id).value;
    if (!is_touched(id)) return Seen(pass, id);
    const auto known = again.find(id);
    if (known != again.end()) return known->second;
    Value value = ComputeForced(NodeIn(graph_, edit, id), pass, seen, edit);
    if (recording_.Has(id)) value = WithRecordedRows(value, recording_.At(id));
    return again[id] = std::move(value);
  };
  if (!is_touched(target)) return pass.values[static_cast<std::size_t>(target)];
  return ComputeForced(NodeIn(graph_, edit, target), pass, seen, edit);
}

std::vector<NodeId> Replay::Segment(NodeId target) const {
  std::set<NodeId> segment = {target};
  std::vector<NodeId> open = {target};
  while (!open.empty()) {
    const NodeId id = open.back();
    open.pop_back();
    for (const NodeId input : graph_.nodes[static_cast<std::size_t>(id)].inputs) {
      if (!recording_.Has(input) && segment.insert(input).second) open.push_back(input);
    }
  }
  return {segment.begin(), segment.end()};
}

std::vector<NodeId> Replay::SegmentInputs(NodeId target) const {
  std::set<NodeId> inputs;
  for (const NodeId id : Segment(target)) {
    for (const NodeId input : graph_.nodes[static_cast<std::size_t>(id)].inputs) {
      if (recording_.Has(input)) inputs.insert(input);
    }
  }
  return {inputs.begin(), inputs.end()};
}

}  // namespace paritrace
