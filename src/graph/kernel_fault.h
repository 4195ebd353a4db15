// What a kernel may do wrongly whatever its op: read its weight's bytes as something else, coarsen what goes in, follow
// another curve inside, spoil what comes out. Hypotheses of the diagnosis carry these; no model does.
// Kept apart from the ops, which know only what a model may say.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "graph/ops.h"
#include "graph/weight_reading.h"

namespace paritrace {

struct KernelFault {
  std::optional<WeightReading> reading;  // of the node's weight, a matrix or a vector
  // Changes the node's inputs, in the order the node names them, before anything is computed.
  std::function<void(std::vector<Value>& inputs)> input;
  bool replaces_input_rounding = false;  // `input` stands for what the policy does to the inputs of a product
  // In place of the special function inside: the activation, tanh of a soft cap, exp of a softmax (of x <= 0), a sigmoid.
  std::function<double(double)> curve;
  // Changes the result once it is stored. inputs: as the node names them.
  std::function<void(std::span<const Value* const> inputs, Value& output)> output;
};

// As Compute, for a node whose fault is not null.
[[nodiscard]] Value ComputeWithFault(const Node& node, std::span<const Value* const> inputs, const Graph& graph,
                                     const RunInput& run, const Arithmetic& arithmetic);

}  // namespace paritrace
