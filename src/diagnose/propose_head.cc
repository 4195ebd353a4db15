// Mistakes of the head: a cap on the logits that is missing, there without need, or another.
#include <fmt/format.h>

#include "diagnose/hypothesis.h"

namespace paritrace {
namespace {

void ProposeCap(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const ScaleOp right = std::get<ScaleOp>(node.op);
  const auto with = [&](double cap) {
    Node changed = node;
    std::get<ScaleOp>(changed.op).softcap = cap;
    return site.With(changed);
  };
  out.push_back({.cause = "head.softcap",
                 .edit = with(0),
                 .expected = right.softcap,
                 .found = nullptr,
                 .statement = fmt::format("logits are not capped where the model caps at {:g}", right.softcap),
                 .fix = "apply cap * tanh(logits / cap)"});
  for (const double cap : NiceNumbers(site.FitLog(right.softcap / 100, right.softcap * 100, 60, with))) {
    out.push_back(
        {.cause = "head.softcap",
         .edit = with(cap),
         .expected = right.softcap,
         .found = cap,
         .statement = fmt::format("logits are capped at {:g} where the model caps at {:g}", cap, right.softcap),
         .fix = "take the cap from the config (final_logit_softcapping)",
         .parameters = 1});
  }
}

}  // namespace

void ProposeHead(const SearchSite& site, std::vector<Hypothesis>& out) {
  for (const Node& node : site.segment()) {
    if (std::holds_alternative<ScaleOp>(node.op) && node.site == "logits" && std::get<ScaleOp>(node.op).softcap > 0)
      ProposeCap(site, node, out);
  }
}

}  // namespace paritrace
