#include "report/overlay.h"

#include <algorithm>
#include <utility>

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

// From blue (explained) to brown, as on the page of --html: their lightness falls one way, for eyes that see no hue.
constexpr const char *kExplained = "#d7e6f2", *kBlamed = "#54300c", *kOnBlamed = "#ffffff";

}  // namespace

void Overlay::Add(std::initializer_list<std::string_view> names, double value, bool blamed) {
  if (!(value <= kMostOverlaid)) value = kMostOverlaid;
  for (const std::string_view name : names) {
    if (name.empty()) continue;
    const auto [place, is_new] = places_.emplace(name, nodes_.size());
    if (is_new) nodes_.push_back({std::string(name), value, blamed});
    Node& node = nodes_[place->second];
    node.value = std::max(node.value, value);
    node.blamed = node.blamed || blamed;
  }
}

Json Overlay::ToJson(const std::string& name, double limit) const {
  Json results = Json::object();
  for (const Node& node : nodes_) {
    Json result = {{"value", node.value}};
    if (node.blamed) {
      result["bgColor"] = kBlamed;
      result["textColor"] = kOnBlamed;
    }
    results[node.key] = std::move(result);
  }
  Json thresholds = Json::array();
  for (const auto& [value, colour] : {std::pair(limit, kExplained), std::pair(10 * limit, "#e3c898"),
                                      std::pair(100 * limit, "#c99a55"), std::pair(kMostOverlaid, "#a86f2c")}) {
    thresholds.push_back({{"value", value}, {"bgColor", colour}});
  }
  return {{"name", name}, {"results", std::move(results)}, {"thresholds", std::move(thresholds)}};
}

}  // namespace paritrace
