// Mistakes of the residual sums: a term missing, doubled, scaled, or taken from the wrong place.
#include <cmath>

#include <fmt/format.h>

#include "diagnose/hypothesis.h"

namespace paritrace {
namespace {

void ProposeTerms(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const auto with = [&](std::vector<NodeId> inputs, std::vector<double> factors) {
    Node changed = node;
    changed.inputs = std::move(inputs);
    changed.op = AddOp{std::move(factors)};
    return site.With(changed);
  };
  const NodeId stream = node.inputs[0], branch = node.inputs[1];
  const std::string& stream_site = site.graph().nodes[static_cast<std::size_t>(stream)].site;
  const std::string& branch_site = site.graph().nodes[static_cast<std::size_t>(branch)].site;
  out.push_back({.cause = "residual.missing",
                 .edit = with({branch}, {}),
                 .expected = fmt::format("{} + {}", stream_site, branch_site),
                 .found = branch_site,
                 .statement = "the residual stream is not added: only the block's output goes on",
                 .fix = fmt::format("add {}", stream_site)});
  out.push_back(
      {.cause = "residual.missing",
       .edit = with({stream}, {}),
       .expected = fmt::format("{} + {}", stream_site, branch_site),
       .found = stream_site,
       .statement = fmt::format("{} is not added to the residual stream: the block has no effect", branch_site),
       .fix = fmt::format("add {}", branch_site)});
  out.push_back({.cause = "residual.twice",
                 .edit = with({stream, branch}, {2, 1}),
                 .statement = fmt::format("{} is added twice", stream_site),
                 .fix = "add it once"});
  out.push_back({.cause = "residual.twice",
                 .edit = with({stream, branch}, {1, 2}),
                 .statement = fmt::format("{} is added twice", branch_site),
                 .fix = "add it once"});
  // Another tensor of this layer, or the stream as it was further up, in the stream's place.
  for (const Node& other : site.graph().nodes) {
    if (other.id >= node.id || other.id == stream || IsScoreShaped(other)) continue;
    if (other.layer != node.layer && other.layer != node.layer - 1) continue;
    const bool is_norm = std::holds_alternative<NormOp>(other.op);
    const bool is_sum = std::holds_alternative<AddOp>(other.op) && other.inputs.size() > 1;
    const bool is_source = is_norm || is_sum || other.site.ends_with(".in");
    if (!is_source || WidthOf(site.graph(), other) != WidthOf(site.graph(), node)) continue;
    if (other.inputs.size() == 1 && other.inputs[0] == stream && !is_norm) continue;
    const bool own_norm = is_norm && other.layer == node.layer;
    out.push_back({.cause = own_norm ? "residual.from_norm" : "residual.source",
                   .edit = with({other.id, branch}, {}),
                   .expected = stream_site,
                   .found = other.site,
                   .statement = fmt::format("{} is added where {} belongs", other.site, stream_site),
                   .fix = fmt::format("keep {} and add that", stream_site)});
  }
}

// recorded = a * stream + b * branch, by least squares.
void ProposeFactors(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  // A fit takes some hundred replays: only where no more than this sum is between the recorded values.
  const Node& target = site.target();
  const bool is_target = target.inputs.size() == 1 && target.inputs[0] == node.id;
  if (node.id != target.id && !(is_target && std::holds_alternative<AddOp>(target.op))) return;
  const auto with = [&](double a, double b) {
    Node changed = node;
    changed.op = AddOp{{a, b}};
    return site.With(changed);
  };
  const auto best = [&](bool stream) {
    return site.FitLog(1e-3, 1e3, 48, [&](double factor) { return stream ? with(factor, 1) : with(1, factor); });
  };
  for (const bool stream : {true, false}) {
    for (const double factor : NiceNumbers(best(stream))) {
      if (std::fabs(factor - 1) < 1e-6 || std::fabs(factor - 2) < 1e-6) continue;
      const std::string& term = site.graph().nodes[static_cast<std::size_t>(node.inputs[stream ? 0 : 1])].site;
      out.push_back({.cause = "residual.scale",
                     .edit = stream ? with(factor, 1) : with(1, factor),
                     .expected = 1.0,
                     .found = factor,
                     .statement = fmt::format("{} is added {:g} times", term, factor),
                     .fix = "add it once, unscaled",
                     .parameters = 1});
    }
  }
}

}  // namespace

void ProposeResidual(const SearchSite& site, std::vector<Hypothesis>& out) {
  for (const Node& node : site.segment()) {
    // Other sums of two, of embeddings or of experts, are no residual.
    if (!std::holds_alternative<AddOp>(node.op) || node.inputs.size() != 2 || !node.site.ends_with(".residual"))
      continue;
    ProposeTerms(site, node, out);
    ProposeFactors(site, node, out);
  }
}

}  // namespace paritrace
