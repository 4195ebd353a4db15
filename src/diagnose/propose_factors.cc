#include "diagnose/propose_factors.h"

#include <cmath>
#include <optional>

#include <fmt/format.h>

namespace paritrace {
namespace {

// The node with a factor on its values; nullopt where the graph has no place for one.
std::optional<Node> Multiplied(Node node, double factor) {
  if (auto* linear = std::get_if<LinearOp>(&node.op)) {
    linear->factor *= factor;
  } else if (auto* norm = std::get_if<NormOp>(&node.op)) {
    norm->weight_factor *= factor;
  } else if (auto* scores = std::get_if<ScoresOp>(&node.op)) {
    scores->scale *= factor;
  } else if (auto* sum = std::get_if<AddOp>(&node.op); sum != nullptr && node.inputs.size() == 2) {
    if (sum->factors.empty()) sum->factors = {1, 1};
    sum->factors[1] *= factor;  // the branch, not the stream
  } else {
    return std::nullopt;
  }
  return node;
}

std::string_view CauseOf(const Node& node) {
  if (std::holds_alternative<LinearOp>(node.op)) return "linear.weight_scale";
  if (std::holds_alternative<NormOp>(node.op)) return "norm.weight_scale";
  if (std::holds_alternative<AddOp>(node.op)) return "residual.scale";
  return "attn.scale";
}

// The lowest point of the parabola through three points; `otherwise` where it has none.
double Vertex(double a, double cost_a, double b, double cost_b, double c, double cost_c, double otherwise) {
  const double slope_ab = (cost_b - cost_a) / (b - a), slope_bc = (cost_c - cost_b) / (c - b);
  const double bend = (slope_bc - slope_ab) / (c - a);
  if (!(bend > 0) || !std::isfinite(bend)) return otherwise;
  return (a + b) / 2 - slope_ab / (2 * bend);
}

// Squared error is a parabola in a factor that enters linearly, and close to one near its lowest point in any other.
double FitFactor(const SearchSite& site, const Node& node) {
  const auto cost = [&](double factor) {
    const double left = site.Residual(site.With(*Multiplied(node, factor)));
    return left * left;
  };
  double best = 1;
  for (const double width : {0.5, 0.2, 0.05, 0.01}) {
    const double step = width * (std::fabs(best) > 0.02 ? std::fabs(best) : 0.02);
    const double low = best - step, high = best + step;
    const double vertex = Vertex(low, cost(low), best, cost(best), high, cost(high), best);
    if (std::isfinite(vertex) && std::fabs(vertex) < 100 && cost(vertex) < cost(best)) best = vertex;
  }
  return best;
}

}  // namespace

void ProposeInnerFactors(const SearchSite& site, std::vector<Hypothesis>& out) {
  if (site.segment().size() < 2 || site.segment().size() > kLongestStretch) return;
  for (const Node& node : site.segment()) {
    if (!Multiplied(node, 1)) continue;
    const double fitted = FitFactor(site, node);
    if (std::fabs(fitted - 1) < 1e-6) continue;
    const bool scores = std::holds_alternative<ScoresOp>(node.op);
    const double right = scores ? std::get<ScoresOp>(node.op).scale : 1.0;
    for (const double factor : NiceNumbers(fitted)) {
      out.push_back({.cause = std::string(CauseOf(node)),
                     .edit = site.With(*Multiplied(node, factor)),
                     .expected = right,
                     .found = right * factor,
                     .statement = fmt::format(
                         "{} is {:g} times what it should be",
                         std::holds_alternative<AddOp>(node.op) ? "what is added at " + node.site : node.site, factor),
                     .fix = "look for a scale that is lost or applied twice",
                     .parameters = 1});
    }
  }
}

}  // namespace paritrace
