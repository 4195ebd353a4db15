// The operations of a model, each in any emulated arithmetic. Input and output values are doubles; the policy says where
// they are rounded. With the policy f64 nothing is rounded and every sum runs in one fixed order.
#pragma once

#include <algorithm>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "graph/arithmetic.h"
#include "graph/graph.h"
#include "graph/value.h"

namespace paritrace {

// The token of a row whose id is not known: its embedding is NaN, and so is all that follows from it alone.
inline constexpr std::int64_t kUnknownToken = -1;

// What a forward pass runs on. One sequence; all steps of a run stand side by side, so that row t is token t.
struct RunInput {
  std::vector<std::int64_t> tokens;     // [tokens]
  std::vector<std::int64_t> positions;  // [tokens], absolute
  // [tokens] how many tokens there are when each one's forward call ends: no later key exists for it, masked or not.
  // Empty: all tokens belong to one call.
  std::vector<std::int64_t> ends;
  [[nodiscard]] std::int64_t count() const { return static_cast<std::int64_t>(tokens.size()); }
  // The tokens [first, last) of the forward call that token `t` belongs to.
  [[nodiscard]] std::pair<std::int64_t, std::int64_t> CallOf(std::int64_t t) const {
    if (ends.empty()) return {0, count()};
    const auto same = std::ranges::equal_range(ends, ends[static_cast<std::size_t>(t)]);
    return {same.begin() - ends.begin(), same.end() - ends.begin()};
  }
};

// Computes one node from its inputs, in the order node.inputs names them.
// Errors: UsageError if a token is outside the vocabulary or a weight's dtype cannot be decoded.
[[nodiscard]] Value Compute(const Node& node, std::span<const Value* const> inputs, const Graph& graph,
                            const RunInput& run, const Arithmetic& arithmetic);

// A curve in place of the special function inside an op; nullptr: the right one.
using SpecialFunction = const std::function<double(double)>*;

// One op with its weight and bias given, whatever `node` names, and with another special function where there is one.
[[nodiscard]] Value ComputeOp(const Node& node, std::span<const Value* const> inputs, const Graph& graph,
                              const Weight* weight, const Weight* bias, const RunInput& run,
                              const Arithmetic& arithmetic, SpecialFunction curve = nullptr);

// Attention without stored scores, as a flash kernel does it: keys one by one with a running maximum and a running sum,
// the weighted sum of V kept in the cache's precision (ggml-cpu: f16).
//   q [tokens, heads * head_dim], k and v [tokens, kv_heads * head_dim]; result as q.
[[nodiscard]] Value ComputeFlashContext(const ScoresOp& scores, const ContextOp& context, const Value& q,
                                        const Value& k, const Value& v, const RunInput& run,
                                        const Arithmetic& arithmetic);

// The parts, one file each.
[[nodiscard]] Value ComputeEmbed(const EmbedOp& op, const Weight& table, const RunInput& run,
                                 const Arithmetic& arithmetic);
[[nodiscard]] Value ComputeNorm(const NormOp& op, const Value& x, const Weight* weight, const Weight* bias,
                                const Arithmetic& arithmetic);
[[nodiscard]] Value ComputeLinear(const LinearOp& op, const Value& x, const Weight& weight, const Weight* bias,
                                  const Arithmetic& arithmetic);
// A LinearOp whose bits are not kNone; ComputeLinear takes the others.
[[nodiscard]] Value ComputeBitLinear(const LinearOp& op, const Value& x, const Weight& weight, const Weight* bias,
                                     const RunInput& run, const Arithmetic& arithmetic);
[[nodiscard]] Value ComputeRope(const RopeOp& op, const Value& x, const RunInput& run, const Arithmetic& arithmetic);
[[nodiscard]] Value ComputeScores(const ScoresOp& op, const Value& q, const Value& k, const RunInput& run,
                                  const Arithmetic& arithmetic, SpecialFunction tanh = nullptr);
[[nodiscard]] Value ComputeSoftmax(const SoftmaxOp& op, const Value& scores, const RunInput& run,
                                   const Arithmetic& arithmetic, SpecialFunction exp = nullptr);
[[nodiscard]] Value ComputeContext(const ContextOp& op, const Value& probs, const Value& v,
                                   const Arithmetic& arithmetic);
[[nodiscard]] Value ComputeActivation(const ActivationOp& op, std::span<const Value* const> inputs,
                                      const Arithmetic& arithmetic, SpecialFunction curve = nullptr);
[[nodiscard]] Value ComputeAdd(const AddOp& op, std::span<const Value* const> inputs, const Arithmetic& arithmetic);
[[nodiscard]] Value ComputeScale(const ScaleOp& op, const Value& x, const Arithmetic& arithmetic,
                                 SpecialFunction tanh = nullptr);

[[nodiscard]] Value ComputeGate(const GateOp& op, const Value& x, const Value& gate, const Arithmetic& arithmetic,
                                SpecialFunction sigmoid = nullptr);
// A softmax over each row. logits [tokens, experts].
[[nodiscard]] Value ComputeRouterProbs(const Value& logits, const Arithmetic& arithmetic);
// A row with NaN in it has no most probable experts: NaN stands for their ids, and all that follows from them is NaN.
[[nodiscard]] Value ComputeTopExperts(const TopExpertsOp& op, const Value& probs);
[[nodiscard]] Value ComputeExpertWeights(const ExpertWeightsOp& op, const Value& probs, const Value& experts,
                                         const Arithmetic& arithmetic);
[[nodiscard]] Value ComputeExperts(const ExpertsOp& op, const Value& x, const Value& experts, const Value& weights,
                                   const Graph& graph, const Weight* bias, const Arithmetic& arithmetic);

// x [tokens, width]; result [1, width * modes].
[[nodiscard]] Value ComputePool(const PoolOp& op, const Value& x, const Arithmetic& arithmetic);
// Rows divided by their length.
[[nodiscard]] Value ComputeUnit(const Value& x, const Arithmetic& arithmetic);

// The true value of an activation.
[[nodiscard]] double TrueActivation(Activation function, double x);

// The key/value head that query head `head` reads.
[[nodiscard]] std::int64_t KvHead(std::int64_t head, std::int64_t heads, std::int64_t kv_heads, bool tiled);

// Whether token `query` of the run sees token `key`.
[[nodiscard]] bool IsVisible(const ScoresOp& op, const RunInput& run, std::int64_t query, std::int64_t key);

// What a node's results are stored in.
[[nodiscard]] inline Rounding StorageOf(const Node& node, const Arithmetic& arithmetic) {
  return node.wide ? arithmetic.inner : arithmetic.storage;
}

// All values of a vector weight (norm weight, bias), rounded as the policy keeps weights.
[[nodiscard]] std::vector<double> VectorWeight(const Weight& weight, const Arithmetic& arithmetic);

// A sum in the policy's order: exact (f64, front to back) or f32 after every addition; or rounded after every addition.
class Summer {
 public:
  explicit Summer(Accumulate accumulate, Rounding running = Rounding::kNone)
      : f32_(accumulate == Accumulate::kF32Sequential && running == Rounding::kNone), running_(running) {}
  void Add(double value) {
    if (running_ != Rounding::kNone) {
      sum64_ = Round(running_, sum64_ + value);
    } else if (f32_) {
      sum32_ += static_cast<float>(value);
    } else {
      sum64_ += value;
    }
  }
  [[nodiscard]] double sum() const { return f32_ ? static_cast<double>(sum32_) : sum64_; }

 private:
  bool f32_;
  Rounding running_;
  float sum32_ = 0;
  double sum64_ = 0;
};

}  // namespace paritrace
