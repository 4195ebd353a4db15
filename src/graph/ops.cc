#include "graph/ops.h"

#include <algorithm>
#include <limits>

#include <fmt/format.h>

#include "core/decode.h"
#include "core/error.h"
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
  const double scale = Round(arithmetic.storage, op.scale);
  for (std::int64_t t = 0; t < run.count(); ++t) {
    if (run.tokens[static_cast<std::size_t>(t)] == kUnknownToken) {
      std::ranges::fill(out.row(t), std::numeric_limits<double>::quiet_NaN());
      continue;
    }
    const std::int64_t token = run.tokens[static_cast<std::size_t>(t)] + op.row_offset;
    if (run.tokens[static_cast<std::size_t>(t)] < 0 || run.tokens[static_cast<std::size_t>(t)] >= rows) {
      throw UsageError(fmt::format("token {} at position {}: expected an id below {}, the rows of {}",
                                   run.tokens[static_cast<std::size_t>(t)], t, rows, table.name));
    }
    if (token < 0 || token >= rows) continue;  // only a hypothesis shifts rows out of the table
    const auto row = out.row(t);
    DecodeF64(table.tensor, token * width, width, row.data());
    RoundAll(arithmetic.weights, row);
    if (op.quantised) {
      std::vector<float> quantised(row.begin(), row.end());
      Requantise(*op.quantised, quantised);
      std::ranges::copy(quantised, row.begin());
    }
    for (double& value : row) value = Round(arithmetic.storage, value);
    if (op.scale != 1) {
      for (double& value : row) value = Round(arithmetic.storage, value * scale);
    }
  }
  return out;
}

Value Compute(const Node& node, std::span<const Value* const> inputs, const Graph& graph, const RunInput& run,
              const Arithmetic& arithmetic) {
  const auto weight = [&](WeightId id) -> const Weight* {
    return id == kAbsent ? nullptr : &graph.weights[static_cast<std::size_t>(id)];
  };
  return std::visit(Overloaded{
                        [&](const EmbedOp& op) { return ComputeEmbed(op, *weight(node.weight), run, arithmetic); },
                        [&](const NormOp& op) {
                          return ComputeNorm(op, *inputs[0], weight(node.weight), weight(node.bias), arithmetic);
                        },
                        [&](const LinearOp& op) {
                          return ComputeLinear(op, *inputs[0], *weight(node.weight), weight(node.bias), arithmetic);
                        },
                        [&](const RopeOp& op) { return ComputeRope(op, *inputs[0], run, arithmetic); },
                        [&](const ScoresOp& op) { return ComputeScores(op, *inputs[0], *inputs[1], run, arithmetic); },
                        [&](const SoftmaxOp&) { return ComputeSoftmax(*inputs[0], arithmetic); },
                        [&](const ContextOp& op) { return ComputeContext(op, *inputs[0], *inputs[1], arithmetic); },
                        [&](const ActivationOp& op) { return ComputeActivation(op, inputs, arithmetic); },
                        [&](const AddOp& op) { return ComputeAdd(op, inputs, arithmetic); },
                        [&](const ScaleOp& op) { return ComputeScale(op, *inputs[0], arithmetic); },
                    },
                    node.op);
}

}  // namespace paritrace
