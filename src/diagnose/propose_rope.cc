// Mistakes of the rotation: pairs, frequencies, positions, lanes.
#include <cmath>

#include <fmt/format.h>

#include "diagnose/hypothesis.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

// All rotations of the segment with one change. Where only the scores were recorded, q and k share the mistake.
template <typename Change>
Edit ChangeAll(const SearchSite& site, const std::vector<Node>& ropes, Change change) {
  std::vector<Node> changed = ropes;
  for (Node& node : changed) change(std::get<RopeOp>(node.op));
  return site.With(changed);
}

std::string_view PairingName(RopePairing pairing) {
  return pairing == RopePairing::kInterleaved ? "adjacent lanes (2i, 2i + 1)" : "lanes i and i + d/2";
}

void ProposePairing(const SearchSite& site, const std::vector<Node>& ropes, const RopeOp& right,
                    std::vector<Hypothesis>& out) {
  const bool split = right.pairing == RopePairing::kHalfSplit;
  const RopePairing other = split ? RopePairing::kInterleaved : RopePairing::kHalfSplit;
  out.push_back(
      {.cause = split ? "rope.interleaved" : "rope.half_split",
       .edit = ChangeAll(site, ropes, [&](RopeOp& op) { op.pairing = other; }),
       .expected = split ? "half_split" : "interleaved",
       .found = split ? "interleaved" : "half_split",
       .statement = fmt::format("RoPE turns {} where these rows are ordered for {}", PairingName(other),
                                PairingName(right.pairing)),
       .fix = split ? "use half-split rotation (rotate_half; NEOX style), or permute the q and k rows when the weights "
                      "are converted"
                    : "use interleaved rotation (adjacent pairs), or undo the permutation of the q and k rows"});
}

void ProposeUse(const SearchSite& site, const std::vector<Node>& ropes, std::vector<Hypothesis>& out) {
  out.push_back({.cause = "rope.missing",
                 .edit = ChangeAll(site, ropes, [](RopeOp& op) { op.times = 0; }),
                 .statement = "RoPE is not applied",
                 .fix = "rotate q and k before the scores"});
  out.push_back({.cause = "rope.twice",
                 .edit = ChangeAll(site, ropes, [](RopeOp& op) { op.times = 2; }),
                 .statement = "RoPE is applied twice",
                 .fix = "rotate once; look for a cache that stores rotated keys and a kernel that rotates them again"});
  out.push_back({.cause = "rope.direction",
                 .edit = ChangeAll(site, ropes, [](RopeOp& op) { op.direction = -op.direction; }),
                 .statement = "RoPE turns backwards: the sign of the sine is flipped",
                 .fix = "flip the sign of sin (x*cos - y*sin, y*cos + x*sin)"});
  if (ropes.size() > 1) {
    Node k = ropes.back();  // q stands before k in order of execution
    std::get<RopeOp>(k.op).times = 0;
    out.push_back({.cause = "rope.k_missing",
                   .edit = site.With(k),
                   .statement = "RoPE is applied to q and not to k",
                   .fix = "rotate k as well"});
  }
}

void ProposeFrequencies(const SearchSite& site, const std::vector<Node>& ropes, const RopeOp& right,
                        std::vector<Hypothesis>& out) {
  const auto with_theta = [&](double theta) { return ChangeAll(site, ropes, [&](RopeOp& op) { op.theta = theta; }); };
  const double fitted = site.FitLog(50, 1e9, 72, with_theta);
  for (const double theta : NiceNumbers(fitted)) {
    if (std::fabs(theta / right.theta - 1) < 1e-6) continue;
    out.push_back(
        {.cause = "rope.theta",
         .edit = with_theta(theta),
         .expected = right.theta,
         .found = theta,
         .statement = fmt::format("RoPE runs with base {:g} where the model says {:g}", theta, right.theta),
         .fix = fmt::format("set rope_theta to {:g}; look whether the key moved in the config and a default stepped in",
                            right.theta),
         .parameters = 1});
  }
  const auto with_scale = [&](double scale) {
    return ChangeAll(site, ropes, [&](RopeOp& op) { op.position_scale = scale; });
  };
  for (const double factor : NiceNumbers(1 / site.FitLog(1.0 / 64, 64, 48, with_scale))) {
    if (std::fabs(factor * right.position_scale - 1) < 1e-6) continue;
    out.push_back({.cause = "rope.scaling",
                   .edit = with_scale(1 / factor),
                   .expected = {{"kind", "linear"}, {"factor", 1 / right.position_scale}},
                   .found = {{"kind", "linear"}, {"factor", factor}},
                   .statement = fmt::format("positions are divided by {:g} where the model divides by {:g}", factor,
                                            1 / right.position_scale),
                   .fix = "apply the RoPE scaling that the config states, to the layers it names",
                   .parameters = 1});
  }
  if (!right.frequency_factors.empty()) {
    out.push_back({.cause = "rope.scaling",
                   .edit = ChangeAll(site, ropes, [](RopeOp& op) { op.frequency_factors.clear(); }),
                   .expected = "scaled",
                   .found = "none",
                   .statement = "the frequency factors of the model's RoPE scaling (llama3, YaRN) are not applied",
                   .fix = "read rope_scaling (rope_parameters in transformers 5) and scale the frequencies"});
  }
}

void ProposePositions(const SearchSite& site, const std::vector<Node>& ropes, std::vector<Hypothesis>& out) {
  const std::int64_t farthest = site.segment().size() <= 4 ? 16 : 4;  // long stretches take long to replay
  std::vector<std::int64_t> offsets;
  for (std::int64_t offset = 1; offset <= farthest; ++offset) offsets.insert(offsets.end(), {offset, -offset});
  for (const TraceStep& step : site.replay().recording().steps) {
    if (step.start > farthest) offsets.push_back(-step.start);  // a step that counts from 0 again
  }
  for (const std::int64_t offset : offsets) {
    out.push_back(
        {.cause = "rope.position_offset",
         .edit = ChangeAll(site, ropes, [&](RopeOp& op) { op.position_offset = offset; }),
         .expected = 0,
         .found = offset,
         .statement = fmt::format("RoPE positions are off by {}", offset),
         .fix = "count positions from 0 at the first token, and go on from the cache's length when decoding"});
  }
}

void ProposeLanes(const SearchSite& site, const std::vector<Node>& ropes, const RopeOp& right,
                  std::vector<Hypothesis>& out) {
  for (std::int64_t width = 2; width <= right.head_dim; width += 2) {
    if (right.head_dim > 64 && width % 8 != 0) continue;  // real models turn round numbers of lanes
    for (const std::int64_t exponent : {width, right.head_dim}) {
      if (width == right.rotary_dim && exponent == right.exponent_dim) continue;
      if (exponent == right.head_dim && width == right.head_dim && width == right.rotary_dim) continue;
      Json expected = right.rotary_dim, found = width;
      if (width == right.rotary_dim) {
        expected = {{"width", right.rotary_dim}, {"exponent", right.exponent_dim}};
        found = {{"width", width}, {"exponent", exponent}};
      }
      out.push_back({.cause = "rope.partial",
                     .edit = ChangeAll(site, ropes,
                                       [&](RopeOp& op) {
                                         op.rotary_dim = width;
                                         op.exponent_dim = exponent;
                                       }),
                     .expected = expected,
                     .found = found,
                     .statement = fmt::format(
                         "RoPE turns {} lanes of each head with frequencies over {}, where the model turns {} over {}",
                         width, exponent, right.rotary_dim, right.exponent_dim),
                     .fix = "read partial_rotary_factor, and take the frequencies over the rotated lanes",
                     .parameters = 1});
      if (width == exponent && width == right.head_dim) break;
    }
  }
}

void ProposeMagnitude(const SearchSite& site, const std::vector<Node>& ropes, const RopeOp& right,
                      std::vector<Hypothesis>& out) {
  if (ropes.size() != 1 || ropes[0].id != site.target().id) return;  // a scale of q and k together is one of the scores
  for (const double factor : NiceNumbers(site.BestFactor(site.base()) * right.magnitude)) {
    if (std::fabs(factor / right.magnitude - 1) < 1e-6) continue;
    out.push_back({.cause = "rope.magnitude",
                   .edit = ChangeAll(site, ropes, [&](RopeOp& op) { op.magnitude = factor; }),
                   .expected = right.magnitude,
                   .found = factor,
                   .statement = fmt::format("cos and sin are multiplied by {:g} where the model has {:g}", factor,
                                            right.magnitude),
                   .fix = "compute YaRN's attention factor as the config states it, and apply it once",
                   .parameters = 1});
  }
}

}  // namespace

void ProposeRope(const SearchSite& site, std::vector<Hypothesis>& out) {
  std::vector<Node> ropes;
  for (const Node& node : site.segment()) {
    if (std::holds_alternative<RopeOp>(node.op)) ropes.push_back(node);
  }
  if (ropes.empty() || ropes.size() > 2) return;  // more: several layers lie between the recorded values
  const RopeOp right = std::get<RopeOp>(ropes[0].op);
  ProposePairing(site, ropes, right, out);
  ProposeUse(site, ropes, out);
  ProposePositions(site, ropes, out);
  ProposeFrequencies(site, ropes, right, out);
  ProposeLanes(site, ropes, right, out);
  ProposeMagnitude(site, ropes, right, out);
}

}  // namespace paritrace
