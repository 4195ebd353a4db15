// Mistakes between the rotated q and k and the attention's output: scale, cap, mask, heads.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <set>

#include <fmt/format.h>

#include "diagnose/hypothesis.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

void ProposeScale(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const ScoresOp right = std::get<ScoresOp>(node.op);
  const auto with_scale = [&](double scale) {
    Node changed = node;
    std::get<ScoresOp>(changed.op).scale = scale;
    return site.With(changed);
  };
  const auto propose = [&](double scale, int parameters, const std::string& reading) {
    if (std::fabs(scale / right.scale - 1) < 1e-6) return;
    out.push_back(
        {.cause = "attn.scale",
         .edit = with_scale(scale),
         .expected = right.scale,
         .found = scale,
         .statement = fmt::format("scores are scaled by {:g}{} where the model has {:g}", scale, reading, right.scale),
         .fix = fmt::format("scale the scores by {:g}", right.scale),
         .parameters = parameters});
  };
  const auto dim = static_cast<double>(right.head_dim), hidden = static_cast<double>(site.graph().hidden);
  propose(1.0, 0, "");
  propose(1 / std::sqrt(hidden), 0, " = 1/sqrt(hidden size)");
  propose(1 / dim, 0, " = 1/head_dim");
  propose(right.scale * right.scale, 0, " = the scale applied twice");
  propose(1 / std::sqrt(dim / 2), 0, " = 1/sqrt(head_dim / 2)");
  propose(1 / std::sqrt(dim * 2), 0, " = 1/sqrt(2 head_dim)");
  propose(right.scale / (node.layer + 1), 0, " = divided by the layer's number as well");
  for (const double scale : NiceNumbers(site.FitLog(right.scale / 1000, right.scale * 1000, 60, with_scale)))
    propose(scale, 1, "");
}

constexpr double kHidden = -std::numeric_limits<double>::infinity();  // how a recording holds a masked score

// Keys that recorded scores hide from queries that should see them, from all of these or from all but their own.
void ProposeHiddenKeys(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const Replay& replay = site.replay();
  if (!replay.recording().Has(node.id)) return;
  const RecordedSite& recorded = replay.recording().At(node.id);
  const ScoresOp right = std::get<ScoresOp>(node.op);
  const std::vector<std::int64_t>& positions = replay.recording().run.positions;
  const auto tokens = static_cast<std::int64_t>(positions.size());
  std::set<std::int64_t> hidden;
  bool own_visible = true;
  for (std::int64_t row = 0; row < recorded.value.rows(); ++row) {
    const std::int64_t query = row % tokens;
    if (!recorded.token_known[static_cast<std::size_t>(query)]) continue;
    for (std::int64_t key = 0; key < tokens; ++key) {
      if (!IsVisible(right, replay.recording().run, query, key) ||
          recorded.value.row(row)[static_cast<std::size_t>(key)] != kHidden)
        continue;
      hidden.insert(positions[static_cast<std::size_t>(key)]);
      own_visible = own_visible && key != query;
    }
  }
  if (hidden.empty()) return;
  Node changed = node;
  auto& op = std::get<ScoresOp>(changed.op);
  op.hidden_keys.assign(hidden.begin(), hidden.end());
  op.own_key_visible = own_visible;
  out.push_back(
      {.cause = "attn.mask_extra",
       .edit = site.With(changed),
       .expected = Json::array(),
       .found = op.hidden_keys,
       .statement = fmt::format("the keys at {} positions are hidden that later queries should see, the first "
                                "of them at {}",
                                hidden.size(), *hidden.begin()),
       .fix = "mask nothing but later keys; look at padding, at special tokens and at document borders",
       .parameters = 1});
}

// How far past its query the farthest key lies that a recorded row of scores or probabilities shows; nullopt where none was
// recorded, or all of them end at the run's last token.
std::optional<std::int64_t> RecordedOffset(const SearchSite& site, const Node& node) {
  const Replay& replay = site.replay();
  const bool scores = std::holds_alternative<ScoresOp>(node.op) && replay.recording().Has(node.id);
  const Node& target = site.target();
  if (!scores && !(std::holds_alternative<SoftmaxOp>(target.op) && target.inputs[0] == node.id)) return std::nullopt;
  const RecordedSite& recorded = replay.recording().At(scores ? node.id : target.id);
  const RunInput& run = replay.recording().run;
  const std::int64_t tokens = run.count();
  std::optional<std::int64_t> farthest;
  for (std::int64_t row = 0; row < recorded.value.rows(); ++row) {
    const std::int64_t query = row % tokens;
    if (!recorded.token_known[static_cast<std::size_t>(query)]) continue;
    const auto values = recorded.value.row(row);
    for (std::int64_t key = run.ends[static_cast<std::size_t>(query)] - 1; key >= 0; --key) {
      const double value = values[static_cast<std::size_t>(key)];
      if (scores ? value == kHidden : value == 0) continue;
      farthest = std::max(farthest.value_or(-tokens), run.positions[static_cast<std::size_t>(key)] -
                                                          run.positions[static_cast<std::size_t>(query)]);
      break;
    }
  }
  return farthest;
}

std::vector<std::int64_t> MaskOffsets(const SearchSite& site, const Node& node) {
  std::vector<std::int64_t> offsets = {1, -1, 2, -2};
  const auto add = [&](std::int64_t offset) {
    if (offset != 0 && std::ranges::find(offsets, offset) == offsets.end()) offsets.push_back(offset);
  };
  if (const auto recorded = RecordedOffset(site, node)) {
    add(*recorded);
  } else {
    for (const std::int64_t offset : {3, -3, 4, -4, 8, -8}) add(offset);
  }
  for (const TraceStep& step : site.replay().recording().steps) add(-step.start);  // top-left aligned with a past
  return offsets;
}

void ProposeMask(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const ScoresOp right = std::get<ScoresOp>(node.op);
  const auto with = [&](const auto& change) {
    Node changed = node;
    change(std::get<ScoresOp>(changed.op));
    return site.With(changed);
  };
  if (right.causal) {
    out.push_back({.cause = "attn.mask_missing",
                   .edit = with([](ScoresOp& op) { op.causal = false; }),
                   .statement = "queries see later tokens: the causal mask is missing",
                   .fix = "mask keys after the query's position"});
  } else {
    out.push_back({.cause = "attn.mask_extra",
                   .edit = with([](ScoresOp& op) { op.causal = true; }),
                   .statement = "a causal mask is applied in a bidirectional model",
                   .fix = "attend to all tokens"});
  }
  for (const std::int64_t offset : right.causal ? MaskOffsets(site, node) : std::vector<std::int64_t>()) {
    out.push_back({.cause = "attn.mask_offset",
                   .edit = with([&](ScoresOp& op) { op.mask_offset = offset; }),
                   .expected = 0,
                   .found = offset,
                   .statement = fmt::format("the causal mask ends {} position(s) {} the query", std::abs(offset),
                                            offset > 0 ? "after" : "before"),
                   .fix = "align the mask to the query's absolute position (bottom right when there is a past)",
                   .parameters = 1});
  }
  ProposeHiddenKeys(site, node, out);
  const std::int64_t tokens = site.replay().recording().run.count();
  if (right.window > 0 && right.window < tokens) {
    out.push_back({.cause = "attn.window",
                   .edit = with([](ScoresOp& op) { op.window = 0; }),
                   .expected = right.window,
                   .found = nullptr,
                   .statement = fmt::format("no sliding window where this layer has one of {}", right.window),
                   .fix = "apply the window in this layer"});
  }
  for (std::int64_t window = 1; window < std::min<std::int64_t>(tokens, 4096); ++window) {
    if (window == right.window) continue;
    out.push_back({.cause = "attn.window",
                   .edit = with([&](ScoresOp& op) { op.window = window; }),
                   .expected = right.window > 0 ? Json(right.window) : Json(nullptr),
                   .found = window,
                   .statement = fmt::format("a sliding window of {} is applied where {}", window,
                                            right.window > 0 ? fmt::format("the model has {}", right.window)
                                                             : std::string("this layer has none")),
                   .fix = "take the window, and the layers it holds for, from the config",
                   .parameters = 1});
    if (window >= 64) window += window / 16;
  }
}

void ProposeSoftcap(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const ScoresOp right = std::get<ScoresOp>(node.op);
  const auto with_cap = [&](double cap) {
    Node changed = node;
    std::get<ScoresOp>(changed.op).softcap = cap;
    return site.With(changed);
  };
  if (right.softcap > 0) {
    out.push_back({.cause = "attn.softcap",
                   .edit = with_cap(0),
                   .expected = right.softcap,
                   .found = nullptr,
                   .statement = fmt::format("scores are not capped where the model caps at {:g}", right.softcap),
                   .fix = "apply cap * tanh(score / cap) before the mask"});
  }
  std::vector<double> caps = {20.0, 30.0, 50.0};
  for (const double cap : NiceNumbers(site.FitLog(0.1, 1000, 48, with_cap))) caps.push_back(cap);
  for (const double cap : caps) {
    if (cap == right.softcap) continue;
    out.push_back({.cause = "attn.softcap",
                   .edit = with_cap(cap),
                   .expected = right.softcap > 0 ? Json(right.softcap) : Json(nullptr),
                   .found = cap,
                   .statement = fmt::format(
                       "scores are capped at {:g} where the model {}", cap,
                       right.softcap > 0 ? fmt::format("caps at {:g}", right.softcap) : std::string("has no cap")),
                   .fix = "take the cap from the config",
                   .parameters = 1});
  }
}

// Scores and context both pick a key/value head; where both lie in the segment they share the mistake.
void ProposeHeads(const SearchSite& site, std::vector<Hypothesis>& out) {
  std::vector<Node> changed;
  bool grouped = false;
  for (Node node : site.segment()) {
    if (auto* scores = std::get_if<ScoresOp>(&node.op)) {
      scores->tiled_heads = !scores->tiled_heads;
      grouped |= scores->kv_heads > 1 && scores->kv_heads < scores->heads;
      changed.push_back(node);
    } else if (auto* context = std::get_if<ContextOp>(&node.op)) {
      context->tiled_heads = !context->tiled_heads;
      grouped |= context->kv_heads > 1 && context->kv_heads < context->heads;
      changed.push_back(node);
    }
  }
  if (!grouped) return;
  const auto propose = [&](Edit edit) {
    out.push_back({.cause = "attn.kv_head_order",
                   .edit = std::move(edit),
                   .expected = "h / group",
                   .found = "h % kv_heads",
                   .statement = "query head h reads key/value head h % kv_heads where it belongs to h / (heads / "
                                "kv_heads): K and V are tiled, not repeated",
                   .fix = "repeat each key/value head for its group (repeat_interleave), do not tile them"});
  };
  propose(site.With(changed));
  if (changed.size() > 1) {
    for (const Node& node : changed) propose(site.With(node));
  }
}

void ProposeLayout(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  Node changed = node;
  std::get<ContextOp>(changed.op).heads_outermost = true;
  out.push_back({.cause = "attn.head_layout",
                 .edit = site.With(changed),
                 .expected = "[tokens, heads, head_dim]",
                 .found = "[heads, tokens, head_dim]",
                 .statement = "the heads are merged without moving them behind the tokens: [heads, tokens, dim] is "
                              "read as [tokens, heads * dim]",
                 .fix = "transpose heads and tokens before the output projection"});
  std::get<ContextOp>(changed.op).heads_outermost = false;
  std::get<ContextOp>(changed.op).lanes_outermost = true;
  out.push_back(
      {.cause = "attn.head_layout",
       .edit = site.With(changed),
       .expected = "[tokens, heads, head_dim]",
       .found = "[tokens, head_dim, heads]",
       .statement = "the heads are merged lane by lane: [tokens, dim, heads] is read as [tokens, heads * dim]",
       .fix = "move the heads in front of their lanes before merging them"});
}

}  // namespace

void ProposeAttention(const SearchSite& site, std::vector<Hypothesis>& out) {
  ProposeHeads(site, out);
  for (const Node& node : site.segment()) {
    if (std::holds_alternative<ScoresOp>(node.op)) {
      ProposeMask(site, node, out);
      ProposeScale(site, node, out);
      ProposeSoftcap(site, node, out);
    } else if (std::holds_alternative<ContextOp>(node.op)) {
      ProposeLayout(site, node, out);
    }
  }
}

}  // namespace paritrace
