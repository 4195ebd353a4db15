#include "diagnose/relabel.h"

#include <algorithm>
#include <set>
#include <string>

#include <fmt/format.h>

namespace paritrace {
namespace {

std::string LayerOf(const std::string& site) {
  if (!site.starts_with("layers.")) return "";
  const std::size_t dot = site.find('.', std::string_view("layers.").size());
  return dot == std::string::npos ? "" : site.substr(0, dot + 1);
}

}  // namespace

void MergeMasksAfterSoftmax(PlacedDefects& defects) {
  std::set<std::string> merged;
  for (const auto& [defect, node] : defects) {
    if (defect.cause.id == "attn.softmax" && defect.cause.found == "over hidden keys as well")
      merged.insert(LayerOf(defect.site) + "attn.scores");
  }
  std::erase_if(defects, [&](const auto& entry) {
    const Defect& defect = entry.first;
    return merged.contains(defect.site) && (defect.cause.id == "attn.mask_missing" || defect.cause.id == "attn.window");
  });
}

void NameOtherSchedules(const Recording& recording, PlacedDefects& defects) {
  std::set<int> named;
  for (auto& [defect, node] : defects) {
    for (const auto& [layer, is_mixture] : recording.other_schedule) {
      if (defect.cause.id != "unknown" || LayerOf(defect.site) != fmt::format("layers.{}.", layer)) continue;
      const bool block =
          defect.site.ends_with("mlp.out") || defect.site.ends_with("mlp.residual") || defect.site.ends_with(".out");
      if (!block || defect.site.ends_with("attn.out") || !named.insert(layer).second) continue;
      defect.cause.id = "moe.schedule";
      defect.cause.confidence = 0.95;
      defect.cause.expected = is_mixture ? "a dense layer" : "a mixture of experts";
      defect.cause.found = is_mixture ? "a mixture of experts" : "a dense layer";
      defect.cause.statement =
          is_mixture
              ? "the layer runs a mixture of experts, whose router was recorded, where the config has a dense layer"
              : "the layer runs a dense MLP, and recorded no router, where the config has a mixture";
      defect.cause.fix = "take from the config which layers are mixtures, and count layers from 0";
      defect.alternatives.clear();
    }
  }
}

}  // namespace paritrace
