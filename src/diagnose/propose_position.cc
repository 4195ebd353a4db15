// Positions that enter the scores where they should not: a bias by distance (ALiBi), queries scaled by position, a rotation in a
// model that has none.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "diagnose/hypothesis.h"

namespace paritrace {
namespace {

// Press et al., arXiv:2108.12409: a geometric series from 2^(-8/n); for other numbers of heads, that of the power of two below
// and every second slope of the next one.
std::vector<double> AlibiSlopes(std::int64_t heads) {
  std::int64_t power = 1;
  while (power * 2 <= heads) power *= 2;
  std::vector<double> slopes;
  for (std::int64_t h = 0; h < power; ++h)
    slopes.push_back(std::exp2(-8.0 * static_cast<double>(h + 1) / static_cast<double>(power)));
  for (std::int64_t h = 0; h < heads - power; ++h)
    slopes.push_back(std::exp2(-4.0 * static_cast<double>(2 * h + 1) / static_cast<double>(power)));
  return slopes;
}

// Slopes that fit what recorded scores have beyond their replay, by least squares; empty where nothing can be fitted.
std::vector<double> FittedSlopes(const SearchSite& site, const Node& node) {
  const RecordedSite& recorded = site.replay().recording().At(node.id);
  const Value& exact = site.replay().Exact(node.id);
  const std::vector<std::int64_t>& positions = site.replay().recording().run.positions;
  const std::int64_t heads = exact.shape[0], tokens = exact.shape[1];
  std::vector<double> slopes;
  for (std::int64_t h = 0; h < heads; ++h) {
    double cross = 0, square = 0;
    for (std::int64_t t = 0; t < tokens; ++t) {
      if (!recorded.token_known[static_cast<std::size_t>(t)]) continue;
      for (std::int64_t s = 0; s < tokens; ++s) {
        const auto i = static_cast<std::size_t>((h * tokens + t) * tokens + s);
        const double e = recorded.value.data[i] - exact.data[i];
        const auto distance = static_cast<double>(
            -std::abs(positions[static_cast<std::size_t>(s)] - positions[static_cast<std::size_t>(t)]));
        if (!std::isfinite(e)) continue;
        cross += e * distance;
        square += distance * distance;
      }
    }
    if (square == 0) return {};
    slopes.push_back(cross / square);
  }
  return slopes;
}

void ProposeAlibi(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const std::int64_t heads = std::get<ScoresOp>(node.op).heads;
  const auto propose = [&](std::vector<double> slopes, int parameters, const std::string& which) {
    Node changed = node;
    std::get<ScoresOp>(changed.op).slopes = slopes;
    out.push_back(
        {.cause = "attn.alibi",
         .edit = site.With(changed),
         .expected = nullptr,
         .found = slopes,
         .statement = fmt::format("a bias by distance (ALiBi) is added to the scores, {}, where the model has "
                                  "none",
                                  which),
         .fix = "leave the bias out: this model's positions enter elsewhere",
         .parameters = parameters});
  };
  const std::vector<double> standard = AlibiSlopes(heads);
  propose(standard, 0, fmt::format("with the usual slopes of {} heads", heads));
  if (node.id == site.target().id) {
    const std::vector<double> slopes = FittedSlopes(site, node);
    if (!slopes.empty()) propose(slopes, 2, fmt::format("with slopes from {:.4g} on", slopes[0]));
  }
}

// The factor of each token that brings the replay to what was recorded; 1 where a row says nothing.
std::vector<double> FactorsByToken(const SearchSite& site) {
  const Node& target = site.target();
  const RecordedSite& recorded = site.replay().recording().At(target.id);
  const Value& exact = site.replay().Exact(target.id);
  const auto tokens = recorded.token_known.size();
  std::vector<double> cross(tokens), square(tokens), factors(tokens, 1.0);
  for (std::int64_t r = 0; r < exact.rows(); ++r) {
    const auto t = static_cast<std::size_t>(r) % tokens;
    if (!recorded.token_known[t]) continue;
    for (std::size_t c = 0; c < exact.row(r).size(); ++c) {
      const double x = recorded.value.row(r)[c], f = exact.row(r)[c];
      if (!std::isfinite(x) || !std::isfinite(f)) continue;
      cross[t] += x * f;
      square[t] += f * f;
    }
  }
  for (std::size_t t = 0; t < tokens; ++t) {
    if (square[t] > 0) factors[t] = cross[t] / square[t];
  }
  return factors;
}

// Llama 4's temperature: 1 + beta log(1 + floor((position + 1) / floor scale)).
std::vector<double> Llama4Factors(const std::vector<std::int64_t>& positions, double floor_scale, double beta) {
  std::vector<double> factors;
  for (const std::int64_t p : positions)
    factors.push_back(1 + beta * std::log1p(std::floor(static_cast<double>(p + 1) / floor_scale)));
  return factors;
}

void ProposePositionScale(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const auto propose = [&](const std::vector<double>& factors, int parameters, const std::string& how) {
    const auto [low, high] = std::ranges::minmax_element(factors);
    if (factors.empty() || !(*high - *low > 1e-3 * std::fabs(*high))) return;  // one factor for all is another mistake
    Node changed = node;
    if (auto* rope = std::get_if<RopeOp>(&changed.op)) {
      rope->row_factors = factors;
    } else {
      std::get<ScoresOp>(changed.op).query_factors = factors;
    }
    out.push_back(
        {.cause = "attn.position_scale",
         .edit = site.With(changed),
         .expected = 1.0,
         .found = factors.back(),
         .statement = fmt::format("queries are scaled by position{}, from {:.4g} at the first to {:.4g} at the "
                                  "last one",
                                  how, factors.front(), factors.back()),
         .fix = "scale all queries alike: this model has no temperature by position",
         .parameters = parameters});
  };
  const std::vector<std::int64_t>& positions = site.replay().recording().run.positions;
  for (double floor_scale = 1; floor_scale <= static_cast<double>(positions.size()); floor_scale *= 2)
    propose(Llama4Factors(positions, floor_scale, 0.1), 1,
            fmt::format(" as in Llama 4, with a floor scale of {:g}", floor_scale));
  if (node.id == site.target().id) propose(FactorsByToken(site), 3, "");
}

// Only where neither q nor k is turned on the way to the scores.
void ProposeExtraRope(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  for (const NodeId input : node.inputs) {
    if (std::holds_alternative<RopeOp>(site.graph().nodes[static_cast<std::size_t>(input)].op)) return;
  }
  const ScoresOp right = std::get<ScoresOp>(node.op);
  for (const RopePairing pairing : {RopePairing::kHalfSplit, RopePairing::kInterleaved}) {
    const auto with = [&](double theta) {
      Node changed = node;
      std::get<ScoresOp>(changed.op).extra_rope = RopeOp{.pairing = pairing,
                                                         .heads = right.heads,
                                                         .head_dim = right.head_dim,
                                                         .rotary_dim = right.head_dim,
                                                         .exponent_dim = right.head_dim,
                                                         .theta = theta};
      return site.With(changed);
    };
    const auto propose = [&](double theta, int parameters) {
      out.push_back({.cause = "rope.extra",
                     .edit = with(theta),
                     .expected = nullptr,
                     .found = theta,
                     .statement = fmt::format("q and k are turned (RoPE of base {:g}, {}) where this layer has no RoPE",
                                              theta, pairing == RopePairing::kHalfSplit ? "half-split" : "interleaved"),
                     .fix = "leave the rotation out in this layer",
                     .parameters = parameters});
    };
    for (const double theta : {10000.0, 500000.0, 1000000.0}) propose(theta, 0);
    if (node.id != site.target().id) continue;  // a fit takes some hundred replays
    for (const double theta : NiceNumbers(site.FitLog(50, 1e8, 48, with))) propose(theta, 1);
  }
}

}  // namespace

void ProposePosition(const SearchSite& site, std::vector<Hypothesis>& out) {
  for (const Node& node : site.segment()) {
    if (std::holds_alternative<RopeOp>(node.op) && node.site.ends_with("q_rope")) ProposePositionScale(site, node, out);
    if (!std::holds_alternative<ScoresOp>(node.op)) continue;
    ProposeAlibi(site, node, out);
    ProposePositionScale(site, node, out);
    ProposeExtraRope(site, node, out);
  }
}

}  // namespace paritrace
