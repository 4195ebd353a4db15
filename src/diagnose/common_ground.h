// What the places of one mistake share: "only in decode steps", "only the layers with a sliding window".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "diagnose/recording.h"
#include "graph/graph.h"

namespace paritrace {

// The kinds of layers that a model has, and how the run was cut into steps.
struct RunLayout {
  int layers = 0;
  std::vector<bool> windowed, mixture;   // [layers]
  std::int64_t prefill = 0, tokens = 0;  // tokens of the first step, and of all
};
[[nodiscard]] RunLayout LayoutOf(const Graph& graph, const Recording& recording);

// In a phrase; "" where nothing is shared that not every place of the model shares.
//   layers  of the places, ascending, each once; tokens: that the mistake is limited to, ascending, empty for all
[[nodiscard]] std::string CommonGround(const RunLayout& layout, const std::vector<int>& layers,
                                       const std::vector<std::int64_t>& tokens);

}  // namespace paritrace
