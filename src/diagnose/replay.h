// The forced forward pass: every recorded site is computed again from the subject's own inputs to it, so that nothing
// inherited is left in the difference. Three times: in f64, as the subject's arithmetic predicts it, and as a sample of
// what another order of summation would give.
#pragma once

#include <functional>
#include <optional>
#include <unordered_map>
#include <vector>

#include "diagnose/recording.h"
#include "graph/ops.h"

namespace paritrace {

// Nodes that a hypothesis replaces, by id. Empty: the model as it is.
using Edit = std::unordered_map<NodeId, Node>;

class Replay {
 public:
  using Progress = std::function<void(std::size_t done, std::size_t total)>;

  // All must outlive the replay. with_free: whether Free() is asked for, which costs a pass.
  Replay(const Graph& graph, const Recording& recording, Arithmetic arithmetic, bool with_free = true);

  // The passes, node by node, from `first` up to and with `last` (all of them by default). Call before the accessors below.
  void Run(const Progress& progress = {}, NodeId last = kAbsent, NodeId first = 0);

  [[nodiscard]] const Graph& graph() const { return graph_; }
  [[nodiscard]] const Recording& recording() const { return recording_; }
  [[nodiscard]] const Arithmetic& arithmetic() const { return predicted_.arithmetic; }

  // A node's value computed from the recorded values that lie before it.
  [[nodiscard]] const Value& Exact(NodeId id) const { return At(exact_, id); }  // f64
  [[nodiscard]] const Value& Predicted(NodeId id) const {
    return At(predicted_, id);
  }                                                                                 // subject's arithmetic, exact sums
  [[nodiscard]] const Value& Sampled(NodeId id) const { return At(sampled_, id); }  // subject's arithmetic, f32 sums
  // f64 from the tokens on, nothing forced: what the subject should have ended up with.
  [[nodiscard]] const Value& Free(NodeId id) const { return At(free_, id); }

  // What users of a node saw in the f64 pass: the recorded value where there is one.
  [[nodiscard]] const Value& Input(NodeId id) const { return Seen(exact_, id); }

  enum class Pass { kExact, kPredicted, kSampled };
  // `target` computed again with `edit` applied, from the recorded values before it.
  [[nodiscard]] Value Evaluate(NodeId target, Pass pass, const Edit& edit) const;

  // Unrecorded nodes between `target` and the recorded values before it, and `target` itself; ascending.
  [[nodiscard]] std::vector<NodeId> Segment(NodeId target) const;
  // The recorded nodes that the segment starts from; ascending.
  [[nodiscard]] std::vector<NodeId> SegmentInputs(NodeId target) const;

 private:
  struct PassState {
    Arithmetic arithmetic;
    std::vector<Value> values;                 // as computed, by node id
    std::vector<std::optional<Value>> merged;  // computed, with recorded rows in place; only where partly recorded
  };
  [[nodiscard]] static const Value& At(const PassState& pass, NodeId id) {
    return pass.values[static_cast<std::size_t>(id)];
  }
  [[nodiscard]] const PassState& StateOf(Pass pass) const;
  // The value that users of `id` see: recorded where it is, computed elsewhere.
  [[nodiscard]] const Value& Seen(const PassState& pass, NodeId id) const;
  [[nodiscard]] Value ComputeForced(const Node& node, const PassState& pass,
                                    const std::function<const Value&(NodeId)>& input, const Edit& edit) const;
  void Merge(PassState& pass, NodeId id) const;
  [[nodiscard]] bool FusesAttention(const Node& node, const PassState& pass) const;

  const Graph& graph_;
  const Recording& recording_;
  PassState exact_, predicted_, sampled_, free_;
  std::vector<PassState*> passes_;  // those that run
};

}  // namespace paritrace
