#include "graph/ops.h"

#include <algorithm>
#include <limits>

#include <fmt/format.h>

#include "core/decode.h"
#include "core/error.h"
#include "graph/kernel_fault.h"
#include "graph/requantise.h"

namespace paritrace {
namespace {

template <typename... Handlers>
struct Overloaded : Handlers... {
  using Handlers::operator()...;
};

}  // namespace

std::vector<double> VectorWeight(const Weight& weight, const Arithmetic& arithmetic) {
  std::vector<double> values = DecodeAll(weight.tensor);
  RoundAll(arithmetic.weights, values);
  return values;
}

Value ComputeEmbed(const EmbedOp& op, const Weight& table, const RunInput& run, const Arithmetic& arithmetic) {
  const std::int64_t rows = table.tensor.shape[0], width = table.tensor.shape[1];
  Value out({run.count(), width});
  const double scale = Round(arithmetic.At(Step::kScale, arithmetic.storage), op.scale);
  const Rounding output = arithmetic.At(Step::kOutput, arithmetic.storage);
  const auto index_of = [&](std::size_t t) {
    return op.index == EmbedIndex::kToken      ? run.tokens[t]
           : op.index == EmbedIndex::kPosition ? run.positions[t]
                                               : std::int64_t{0};
  };
  for (std::int64_t t = 0; t < run.count(); ++t) {
    const std::int64_t index = index_of(static_cast<std::size_t>(t));
    if (op.index == EmbedIndex::kToken && index == kUnknownToken) {
      std::ranges::fill(out.row(t), std::numeric_limits<double>::quiet_NaN());
      continue;
    }
    if (index < 0 || index >= rows) {
      throw UsageError(fmt::format("{} {} at position {}: expected one below {}, the rows of {}",
                                   op.index == EmbedIndex::kToken ? "token" : "position", index, t, rows, table.name));
    }
    if (index + op.row_offset < 0 || index + op.row_offset >= rows)
      continue;  // only a hypothesis shifts rows out of the table
    const auto row = out.row(t);
    DecodeF64(table.tensor, (index + op.row_offset) * width, width, row.data());
    RoundAll(arithmetic.weights, row);
    if (op.quantised) {
      std::vector<float> quantised(row.begin(), row.end());
      Requantise(*op.quantised, quantised);
      std::ranges::copy(quantised, row.begin());
    }
    for (double& value : row) value = Round(op.scale == 1 ? output : arithmetic.storage, value);
    if (op.scale != 1) {
      for (double& value : row) value = Round(output, value * scale);
    }
  }
  return out;
}

namespace {

// The policy as it holds for one node: all results kept in the inner precision where the node is wide, and its own marks.
Arithmetic PolicyOf(const Node& node, Arithmetic arithmetic) {
  if (node.wide) arithmetic.storage = arithmetic.inner;
  arithmetic.marks = node.marks;
  arithmetic.inner = arithmetic.At(Step::kInner, arithmetic.inner);
  arithmetic.storage = arithmetic.At(Step::kStored, arithmetic.storage);
  return arithmetic;
}

// Inputs as the node reads them, where a mark rounds them; `storage` owns the copies.
std::vector<const Value*> MarkedInputs(const Node& node, std::span<const Value* const> inputs,
                                       const Arithmetic& arithmetic, std::vector<Value>& storage) {
  std::vector<const Value*> read(inputs.begin(), inputs.end());
  // Of scores and of the weighted sum, the last input comes from the cache.
  const bool attends = std::holds_alternative<ScoresOp>(node.op) || std::holds_alternative<ContextOp>(node.op);
  storage.reserve(inputs.size());
  for (std::size_t i = 0; i < read.size(); ++i) {
    const Step step = attends && i == 1 ? Step::kCached : Step::kInput;
    if (!arithmetic.IsMarked(step)) continue;
    storage.push_back(*read[i]);
    RoundAll(arithmetic.At(step, Rounding::kNone), storage.back().data);
    read[i] = &storage.back();
  }
  return read;
}

Value ComputeByRecipe(const OpRecipe& recipe, const Node& node, std::span<const Value* const> inputs,
                      const Graph& graph, const RunInput& run, const Arithmetic& policy) {
  Arithmetic own = policy.With(recipe);
  if (!recipe.fused) return Compute(node, inputs, graph, run, own);
  const Rounding storage = StorageOf(node, own);
  own.storage = own.inner;
  Value value = Compute(node, inputs, graph, run, own);
  RoundAll(storage, value.data);
  return value;
}

}  // namespace

Value Compute(const Node& node, std::span<const Value* const> inputs, const Graph& graph, const RunInput& run,
              const Arithmetic& arithmetic) {
  if (const OpRecipe* recipe = arithmetic.RecipeOf(FamilyOf(node.op)))
    return ComputeByRecipe(*recipe, node, inputs, graph, run, arithmetic);
  if (node.fault != nullptr) return ComputeWithFault(node, inputs, graph, run, arithmetic);
  const auto weight = [&](WeightId id) -> const Weight* {
    return id == kAbsent ? nullptr : &graph.weights[static_cast<std::size_t>(id)];
  };
  return ComputeOp(node, inputs, graph, weight(node.weight), weight(node.bias), run, arithmetic);
}

Value ComputeOp(const Node& node, std::span<const Value* const> recorded, const Graph& graph, const Weight* weight,
                const Weight* bias, const RunInput& run, const Arithmetic& policy, SpecialFunction curve) {
  const bool plain = node.marks.empty() && !node.wide;
  const Arithmetic arithmetic = plain ? policy : PolicyOf(node, policy);
  std::vector<Value> rounded;
  const std::vector<const Value*> inputs = MarkedInputs(node, recorded, arithmetic, rounded);
  return std::visit(
      Overloaded{
          [&](const EmbedOp& op) { return ComputeEmbed(op, *weight, run, arithmetic); },
          [&](const NormOp& op) { return ComputeNorm(op, *inputs[0], weight, bias, arithmetic); },
          [&](const LinearOp& op) {
            return op.bits == BitLinear::kNone ? ComputeLinear(op, *inputs[0], *weight, bias, arithmetic)
                                               : ComputeBitLinear(op, *inputs[0], *weight, bias, run, arithmetic);
          },
          [&](const RopeOp& op) { return ComputeRope(op, *inputs[0], run, arithmetic); },
          [&](const ScoresOp& op) { return ComputeScores(op, *inputs[0], *inputs[1], run, arithmetic, curve); },
          [&](const SoftmaxOp& op) { return ComputeSoftmax(op, *inputs[0], run, arithmetic, curve); },
          [&](const ContextOp& op) { return ComputeContext(op, *inputs[0], *inputs[1], arithmetic); },
          [&](const ActivationOp& op) { return ComputeActivation(op, inputs, arithmetic, curve); },
          [&](const AddOp& op) { return ComputeAdd(op, inputs, arithmetic); },
          [&](const ScaleOp& op) { return ComputeScale(op, *inputs[0], arithmetic, curve); },
          [&](const GateOp& op) { return ComputeGate(op, *inputs[0], *inputs[1], arithmetic, curve); },
          [&](const RouterProbsOp&) { return ComputeRouterProbs(*inputs[0], arithmetic); },
          [&](const TopExpertsOp& op) { return ComputeTopExperts(op, *inputs[0]); },
          [&](const ExpertWeightsOp& op) { return ComputeExpertWeights(op, *inputs[0], *inputs[1], arithmetic); },
          [&](const ExpertsOp& op) {
            return ComputeExperts(op, *inputs[0], *inputs[1], *inputs[2], graph, bias, arithmetic);
          },
          [&](const PoolOp& op) { return ComputePool(op, *inputs[0], arithmetic); },
          [&](const UnitOp&) { return ComputeUnit(*inputs[0], arithmetic); },
          [&](const UnknownOp& op) {
            Value out({run.count(), op.width});
            std::ranges::fill(out.data, std::numeric_limits<double>::quiet_NaN());
            return out;
          },
      },
      node.op);
}

}  // namespace paritrace
