#include "graph/kernel_fault.h"

#include <algorithm>

namespace paritrace {
namespace {

// A weight whose values were read wrongly, kept as floats.
Weight Reread(const Weight& weight, const WeightReading& reading, std::vector<float>& values) {
  const std::int64_t rows = weight.tensor.shape.size() > 1 ? weight.tensor.shape[0] : 1;
  values = ReadRows(weight.tensor, reading, 0, rows);
  Weight reread = weight;
  reread.tensor.dtype = DType::kF32;
  reread.tensor.bytes = std::as_bytes(std::span(values));
  return reread;
}

// The rows of a table that a run looks up, one for each token, so that not all of it is read.
Value LookUp(const Node& node, const Weight& table, const WeightReading& reading, const RunInput& run,
             const Arithmetic& arithmetic) {
  EmbedOp op = std::get<EmbedOp>(node.op);
  const std::int64_t width = table.tensor.shape[1];
  std::vector<float> rows(static_cast<std::size_t>(run.count() * width));
  RunInput own = run;
  for (std::size_t t = 0; t < run.tokens.size(); ++t) {
    const std::int64_t index = op.index == EmbedIndex::kToken      ? run.tokens[t]
                               : op.index == EmbedIndex::kPosition ? run.positions[t]
                                                                   : 0;
    const std::int64_t row = index + op.row_offset;
    if (op.index == EmbedIndex::kToken && index == kUnknownToken) continue;
    own.tokens[t] = static_cast<std::int64_t>(t);
    if (row < 0 || row >= table.tensor.shape[0]) continue;
    std::ranges::copy(ReadRows(table.tensor, reading, row, 1), rows.begin() + static_cast<std::ptrdiff_t>(t) * width);
  }
  op.index = EmbedIndex::kToken;
  op.row_offset = 0;
  Weight read = table;
  read.tensor.dtype = DType::kF32;
  read.tensor.shape = {run.count(), width};
  read.tensor.bytes = std::as_bytes(std::span(rows));
  return ComputeEmbed(op, read, own, arithmetic);
}

}  // namespace

Value ComputeWithFault(const Node& node, std::span<const Value* const> inputs, const Graph& graph, const RunInput& run,
                       const Arithmetic& policy) {
  const KernelFault& fault = *node.fault;
  Arithmetic arithmetic = policy;
  std::vector<Value> changed;
  std::vector<const Value*> used(inputs.begin(), inputs.end());
  if (fault.input) {
    for (const Value* input : inputs) changed.push_back(*input);
    fault.input(changed);
    for (std::size_t i = 0; i < changed.size(); ++i) used[i] = &changed[i];
    if (fault.replaces_input_rounding) arithmetic.dot_input = DotInput::kAsStored;
  }
  const auto weight_at = [&](WeightId id) -> const Weight* {
    return id == kAbsent ? nullptr : &graph.weights[static_cast<std::size_t>(id)];
  };
  const Weight* weight = weight_at(node.weight);
  Weight reread;
  std::vector<float> values;
  if (fault.reading && weight != nullptr && std::holds_alternative<EmbedOp>(node.op)) {
    Value out = LookUp(node, *weight, *fault.reading, run, arithmetic);
    if (fault.output) fault.output(used, out);
    return out;
  }
  if (fault.reading && weight != nullptr) {
    // The engine still rounds activations as the type it ran asks for.
    if (!arithmetic.dot_weight) arithmetic.dot_weight = weight->tensor.dtype;
    reread = Reread(*weight, *fault.reading, values);
    weight = &reread;
  }
  Value out =
      ComputeOp(node, used, graph, weight, weight_at(node.bias), run, arithmetic, fault.curve ? &fault.curve : nullptr);
  if (fault.output) fault.output(used, out);
  return out;
}

}  // namespace paritrace
