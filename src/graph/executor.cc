#include "graph/executor.h"

namespace paritrace {

std::vector<Value> RunGraph(const Graph& graph, const RunInput& run, const Arithmetic& arithmetic,
                            const std::function<void(std::size_t done, std::size_t total)>& progress) {
  std::vector<Value> values(graph.nodes.size());
  for (const Node& node : graph.nodes) {
    std::vector<const Value*> inputs;
    for (const NodeId id : node.inputs) inputs.push_back(&values[static_cast<std::size_t>(id)]);
    values[static_cast<std::size_t>(node.id)] = Compute(node, inputs, graph, run, arithmetic);
    if (progress) progress(static_cast<std::size_t>(node.id) + 1, graph.nodes.size());
  }
  return values;
}

}  // namespace paritrace
