#include "diagnose/common_ground.h"

#include <algorithm>

#include <fmt/format.h>

namespace paritrace {
namespace {

std::string TokensInCommon(const RunLayout& layout, const std::vector<std::int64_t>& tokens) {
  if (tokens.empty() || static_cast<std::int64_t>(tokens.size()) == layout.tokens) return "";
  const std::int64_t first = tokens.front(), last = tokens.back();
  if (layout.tokens > layout.prefill) {
    if (first >= layout.prefill) return "only in decode steps";
    if (static_cast<std::int64_t>(tokens.size()) == layout.prefill && last < layout.prefill)
      return "only in the prefill";
  }
  const bool contiguous = last - first + 1 == static_cast<std::int64_t>(tokens.size());
  if (!contiguous) return "";
  if (last + 1 == layout.tokens) return fmt::format("only in rows above {}", first - 1);
  if (first == 0) return last == 0 ? "only in row 0" : fmt::format("only in rows up to {}", last);
  return "";
}

// Layers of one kind, where the model has both.
std::string KindInCommon(const std::vector<bool>& is_kind, const std::vector<int>& layers, std::string_view kind,
                         std::string_view other) {
  const auto all = static_cast<std::size_t>(std::ranges::count(is_kind, true));
  if (all == 0 || all == is_kind.size()) return "";
  const auto hit = static_cast<std::size_t>(
      std::ranges::count_if(layers, [&](int layer) { return is_kind[static_cast<std::size_t>(layer)]; }));
  if (hit == layers.size() && hit == all) return fmt::format("only the {}", kind);
  if (hit == 0 && layers.size() == is_kind.size() - all) return fmt::format("only the {}", other);
  return "";
}

std::string LayersInCommon(const RunLayout& layout, const std::vector<int>& layers) {
  const auto count = static_cast<std::size_t>(layout.layers);
  if (layers.empty() || layers.size() == count || count < 2 || layers.back() >= layout.layers) return "";
  if (std::string kind =
          KindInCommon(layout.windowed, layers, "layers with a sliding window", "layers with full attention");
      !kind.empty())
    return kind;
  if (std::string kind = KindInCommon(layout.mixture, layers, "mixtures of experts", "dense layers"); !kind.empty())
    return kind;
  if (layers.size() == 1)
    return layers[0] == 0 ? "only the first layer" : layers[0] + 1 == layout.layers ? "only the last layer" : "";
  if (layers.front() > 0 && layers.back() + 1 == layout.layers &&
      layers.size() == count - static_cast<std::size_t>(layers.front()))
    return layers.front() == 1 ? "all layers but the first" : fmt::format("only the layers from {} on", layers.front());
  const int step = layers[1] - layers[0];
  for (std::size_t i = 1; i < layers.size(); ++i) {
    if (step < 2 || layers[i] - layers[i - 1] != step) return "";
  }
  if (layers.front() >= step || layers.back() + step < layout.layers || layers.size() < 3) return "";
  return step == 2 ? (layers.front() == 0 ? "only the layers of even number" : "only the layers of odd number")
                   : fmt::format("only every {}th layer", step);
}

}  // namespace

RunLayout LayoutOf(const Graph& graph, const Recording& recording) {
  const auto layers = static_cast<std::size_t>(std::max(graph.layers, 0));
  RunLayout layout{.layers = graph.layers,
                   .windowed = std::vector<bool>(layers),
                   .mixture = std::vector<bool>(layers),
                   .prefill = recording.steps.empty() ? 0 : recording.steps[0].count,
                   .tokens = recording.run.count()};
  for (const Node& node : graph.nodes) {
    if (node.layer < 0 || node.layer >= graph.layers) continue;
    const auto layer = static_cast<std::size_t>(node.layer);
    if (const auto* scores = std::get_if<ScoresOp>(&node.op); scores != nullptr && scores->window > 0)
      layout.windowed[layer] = true;
    if (std::holds_alternative<ExpertsOp>(node.op)) layout.mixture[layer] = true;
  }
  return layout;
}

std::string CommonGround(const RunLayout& layout, const std::vector<int>& layers,
                         const std::vector<std::int64_t>& tokens) {
  const std::string where = LayersInCommon(layout, layers), when = TokensInCommon(layout, tokens);
  return where.empty() || when.empty() ? where + when : where + ", " + when;
}

}  // namespace paritrace
