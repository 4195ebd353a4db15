// A result laid over a graph that people look at already: the custom node data of Google's Model Explorer, one graph's,
// `{"name", "results": {key: {"value", …}}, "thresholds"}`.
// Source: node_data_builder.py of the package ai-edge-model-explorer (GraphNodeData, NodeDataResult, ThresholdItem).
#pragma once

#include <cstddef>
#include <functional>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace paritrace {

// The largest value there is: JSON has no infinity.
inline constexpr double kMostOverlaid = 1e9;

class Overlay {
 public:
  // names: a tensor's in its engine, which Model Explorer matches with the outputs of a node, and its site; empty ones are left out.
  // value: error over what rounding explains. Of several under one name the worst stays; what is not finite is kMostOverlaid.
  void Add(std::initializer_list<std::string_view> names, double value, bool blamed);

  // limit: up to which a value is explained. What is blamed has a colour of its own.
  [[nodiscard]] nlohmann::ordered_json ToJson(const std::string& name, double limit) const;

 private:
  struct Node {
    std::string key;
    double value;
    bool blamed;
  };
  std::vector<Node> nodes_;
  std::map<std::string, std::size_t, std::less<>> places_;
};

}  // namespace paritrace
