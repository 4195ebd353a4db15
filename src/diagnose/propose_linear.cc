// Mistakes of the projections: bias, orientation, the wrong matrix, permuted rows, a lost scale. They look in the model file.
#include <cmath>

#include <fmt/format.h>

#include "diagnose/hypothesis.h"
#include "graph/requantise.h"

namespace paritrace {
namespace {

// The id for two projections of one layer exchanged; "" where exchanging them has no name of its own.
std::string_view SwapCause(std::string_view role, std::string_view other) {
  const auto pair = [&](std::string_view a, std::string_view b) {
    return (role == a && other == b) || (role == b && other == a);
  };
  if (pair("mlp.gate", "mlp.up")) return "mlp.gate_up_swapped";
  if (pair("attn.k", "attn.v")) return "attn.kv_swapped";
  if (pair("attn.q", "attn.k")) return "attn.qk_swapped";
  return "";
}

// A ternary matrix brings its scale along: the one of the node that it belongs to.
void TakeScaleOf(const Graph& graph, Node& changed) {
  auto& op = std::get<LinearOp>(changed.op);
  if (op.bits == BitLinear::kNone) return;
  for (const Node& owner : graph.nodes) {
    const auto* linear = std::get_if<LinearOp>(&owner.op);
    if (linear != nullptr && owner.weight == changed.weight) op.weight_scale = linear->weight_scale;
  }
}

void ProposeOtherMatrix(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const auto& weights = site.graph().weights;
  const Weight& right = weights[static_cast<std::size_t>(node.weight)];
  for (std::size_t id = 0; id < weights.size(); ++id) {
    const Weight& other = weights[id];
    if (static_cast<WeightId>(id) == node.weight || other.tensor.shape != right.tensor.shape) continue;
    Node changed = node;
    changed.weight = static_cast<WeightId>(id);
    TakeScaleOf(site.graph(), changed);
    if (node.bias != kAbsent) {  // a wrong matrix mostly brings its own bias along
      for (std::size_t bias = 0; bias < weights.size(); ++bias) {
        if (weights[bias].role == other.role + ".bias" && weights[bias].layer == other.layer)
          changed.bias = static_cast<WeightId>(bias);
      }
    }
    Hypothesis hypothesis{.edit = site.With(changed)};
    if (other.role == right.role && other.layer != right.layer) {
      hypothesis.cause = "linear.wrong_layer";
      hypothesis.expected = right.layer;
      hypothesis.found = other.layer;
      hypothesis.statement = fmt::format("{} of layer {} is used in layer {}", other.role, other.layer, right.layer);
    } else if (other.layer == right.layer && !SwapCause(right.role, other.role).empty()) {
      hypothesis.cause = SwapCause(right.role, other.role);
      hypothesis.expected = right.name;
      hypothesis.found = other.name;
      hypothesis.statement = fmt::format("{} is computed with {}", right.role, other.name);
    } else if (right.role == "logits" && other.role == "embed") {
      hypothesis.cause = "head.untied";
      hypothesis.expected = right.name;
      hypothesis.found = other.name;
      hypothesis.statement = "the embedding is used as the head where the model has a head of its own";
    } else if (right.role == "embed" && other.role == "logits" && node.site.find("logits") != std::string::npos) {
      hypothesis.cause = "head.tied";
      hypothesis.expected = right.name;
      hypothesis.found = other.name;
      hypothesis.statement = "a head of its own is used where the config ties it to the embedding";
    } else {
      continue;
    }
    hypothesis.fix = fmt::format("load {} here", right.name);
    out.push_back(std::move(hypothesis));
    if (changed.bias != node.bias) {
      changed.bias = node.bias;
      out.push_back(out.back());
      out.back().edit = site.With(changed);
    }
  }
}

// The factor on the weight that fits best; a bias takes no part in it.
double FactorOfWeight(const SearchSite& site, const Node& node) {
  if (node.bias == kAbsent || node.id != site.target().id) return site.BestFactor(site.base());
  const auto squared = [&](double factor) {
    Node changed = node;
    std::get<LinearOp>(changed.op).factor = factor;
    return std::pow(site.Residual(site.With(changed)), 2);
  };
  // The squared residual is a parabola in the factor: three points give its lowest.
  const double at0 = squared(0), at1 = squared(1), at2 = squared(2), bend = at0 - 2 * at1 + at2;
  return bend > 0 ? (3 * at0 - 4 * at1 + at2) / (2 * bend) : 1.0;
}

void ProposeForm(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const Weight& right = site.graph().weights[static_cast<std::size_t>(node.weight)];
  const auto with = [&](const auto& change) {
    Node changed = node;
    change(changed, std::get<LinearOp>(changed.op));
    return site.With(changed);
  };
  if (node.bias != kAbsent) {
    out.push_back({.cause = "linear.bias_missing",
                   .edit = with([](Node& changed, LinearOp&) { changed.bias = kAbsent; }),
                   .statement = "the bias is not added",
                   .fix = fmt::format("add {}", site.graph().weights[static_cast<std::size_t>(node.bias)].name)});
  }
  const Node& source = site.graph().nodes[static_cast<std::size_t>(node.inputs[0])];
  if (source.site == "final_norm") {
    out.push_back({.cause = "head.final_norm_missing",
                   .edit = with([&](Node& changed, LinearOp&) { changed.inputs = {source.inputs[0]}; }),
                   .statement = "the head reads the residual stream from before the final norm",
                   .fix = "give the head what the final norm puts out"});
  }
  if (right.tensor.shape[0] == right.tensor.shape[1]) {
    out.push_back({.cause = "linear.transposed",
                   .edit = with([](Node&, LinearOp& op) { op.transposed = true; }),
                   .statement = fmt::format("{} is used transposed", right.name),
                   .fix = "multiply by W^T as nn.Linear does (rows are outputs); square matrices hide this mistake"});
  }
  if ((right.role == "attn.q" || right.role == "attn.k") && right.tensor.shape[0] % site.graph().head_dim == 0) {
    const std::int64_t dim = site.graph().head_dim;
    for (const std::int64_t unit : {dim, dim / 2, dim * 2}) {
      if (unit < 4 || unit % 2 != 0 || right.tensor.shape[0] % unit != 0) continue;
      for (const RowOrder order : {RowOrder::kToInterleaved, RowOrder::kToHalfSplit}) {
        const char* name =
            order == RowOrder::kToInterleaved ? "half-split to interleaved" : "interleaved to half-split";
        out.push_back(
            {.cause = "linear.permuted",
             .edit = with([&](Node&, LinearOp& op) {
               op.row_order = order;
               op.head_dim = unit;
             }),
             .expected = "rows as stored",
             .found = fmt::format("{} in blocks of {}", name, unit),
             .statement = fmt::format("the rows of {} are permuted from {} in blocks of {}", right.name, name, unit),
             .fix = "permute q and k rows once, with each one's own number of heads, and only for the rotation that "
                    "needs it"});
      }
    }
  }
  for (const double factor : NiceNumbers(FactorOfWeight(site, node))) {
    if (std::fabs(factor - 1) < 1e-6) continue;
    out.push_back({.cause = "linear.weight_scale",
                   .edit = with([&](Node&, LinearOp& op) { op.factor = factor; }),
                   .expected = 1.0,
                   .found = factor,
                   .statement = fmt::format("{} acts as if multiplied by {:g}", right.name, factor),
                   .fix = "look for a scale that is lost or applied twice when the weight is loaded",
                   .parameters = 1});
  }
}

void ProposeQuantised(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const Weight& right = site.graph().weights[static_cast<std::size_t>(node.weight)];
  if (IsBlockQuantised(right.tensor.dtype)) return;
  // No type of these moves an output by half of it, and each is tried on all of the matrix.
  constexpr double kMostMoved = 0.5;
  if (!(site.Residual(site.base()) < kMostMoved)) return;
  for (const DType type : kRequantisable) {
    if (type == right.tensor.dtype) continue;
    Node changed = node;
    std::get<LinearOp>(changed.op).quantised = type;
    out.push_back(QuantisedWeights(right, type, site.With(changed)));
  }
}

}  // namespace

void ProposeLinear(const SearchSite& site, std::vector<Hypothesis>& out) {
  for (const Node& node : site.segment()) {
    if (!std::holds_alternative<LinearOp>(node.op)) continue;
    ProposeForm(site, node, out);
    ProposeOtherMatrix(site, node, out);
    ProposeQuantised(site, node, out);
  }
}

}  // namespace paritrace
