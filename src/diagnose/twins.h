// Nodes that may share one mistake: a role in every layer, or all norms. Where the values between them were not recorded, the
// mistake of one alone explains nothing, and only the same change of all of them does.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "graph/graph.h"

namespace paritrace {

struct Twins {
  std::string where;                                   // for statements: "in every layer"
  std::vector<NodeId> leaders;                         // what proposers see
  std::unordered_map<NodeId, std::vector<NodeId>> of;  // by leader: the others
};

// The groups among the nodes of a segment; leaders and their twins are all of the segment.
[[nodiscard]] std::vector<Twins> TwinsAmong(const Graph& graph, const std::vector<NodeId>& segment);

// `twin` with what `changed` has otherwise than the model's node of the same id; nullopt where that has no meaning there.
[[nodiscard]] std::optional<Node> SameChange(const Graph& graph, const Node& changed, NodeId twin);

}  // namespace paritrace
