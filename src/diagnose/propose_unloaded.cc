// Weights that are still zero. Those that hold anything else are found without an edit (unloaded.h).
#include <fmt/format.h>

#include "diagnose/hypothesis.h"

namespace paritrace {

void ProposeUnloaded(const SearchSite& site, std::vector<Hypothesis>& out) {
  Node zero = site.target();  // further back, other mistakes leave nothing as well
  if (zero.weight == kAbsent) return;
  if (auto* linear = std::get_if<LinearOp>(&zero.op)) {
    linear->factor = 0;
  } else if (auto* embed = std::get_if<EmbedOp>(&zero.op)) {
    embed->scale = 0;
  } else if (auto* norm = std::get_if<NormOp>(&zero.op)) {
    norm->weight_factor = 0;
  } else {
    return;
  }
  const std::string& name = site.graph().weights[static_cast<std::size_t>(zero.weight)].name;
  out.push_back({.cause = "weights.unloaded",
                 .edit = site.With(zero),
                 .expected = name,
                 .found = "zeros",
                 .statement = fmt::format("{} is zero throughout: it was never loaded", name),
                 .fix = "make the loader fail on names that it does not find",
                 .whole = true});
}

}  // namespace paritrace
