// Rows of the key/value cache that a decode step finds in the wrong slot, stale, overwritten or empty. The prefill is right: it
// reads what it has just computed.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <optional>
#include <set>

#include <fmt/format.h>

#include "diagnose/hypothesis.h"

namespace paritrace {
namespace {

// What rounding may add to one value of the target: its arithmetic's own error, and one unit of storage.
class Tolerance {
 public:
  explicit Tolerance(const SearchSite& site) : storage_(StorageOf(site.target(), site.replay().arithmetic())) {
    const Value &exact = site.replay().Exact(site.target().id), &sampled = site.replay().Sampled(site.target().id);
    double square = 0, count = 0;
    for (std::size_t i = 0; i < exact.data.size(); ++i) {
      const double n = sampled.data[i] - exact.data[i];
      if (!std::isfinite(n)) continue;
      square += n * n;
      ++count;
    }
    noise_ = count > 0 ? kMany * std::sqrt(square / count) : 0;
  }
  [[nodiscard]] double At(double value) const { return noise_ + kMany * HalfUlp(storage_, value); }

 private:
  static constexpr double kMany = 6;  // times the typical error: of some thousand values none lies beyond
  Rounding storage_;
  double noise_ = 0;
};

// First token of the decode steps, or -1 where there is none.
std::int64_t FirstDecoded(const Recording& recording) {
  return recording.steps.size() > 1 ? recording.steps[1].start : -1;
}

std::string Describe(const std::vector<CacheRow>& rows, std::string_view what) {
  const auto all = [&](const auto& holds) { return std::ranges::all_of(rows, holds); };
  std::set<std::int64_t> slots;
  for (const CacheRow& row : rows) slots.insert(row.key);
  if (all([](const CacheRow& row) { return row.source == kAbsent; }))
    return fmt::format("the {} of slot {} of the cache{} missing: read as zeros", what, *slots.begin(),
                       slots.size() > 1 ? fmt::format(" and {} more are", slots.size() - 1) : " is");
  std::map<std::int64_t, std::size_t> shifts;
  for (const CacheRow& row : rows) ++shifts[row.source == kAbsent ? 0 : row.key - row.source];
  const auto most = std::ranges::max_element(shifts, {}, [](const auto& entry) { return entry.second; });
  if (slots.size() > 1 && 2 * most->second > rows.size() && most->first != 0)
    return fmt::format("the {}s in the cache stand {} slot(s) {} their own", what, std::abs(most->first),
                       most->first > 0 ? "after" : "before");
  return fmt::format("slot {} of the cache holds the {} of {}{}", rows[0].key, what,
                     rows[0].source == kAbsent ? std::string("nothing") : fmt::format("token {}", rows[0].source),
                     slots.size() > 1 ? fmt::format(", and {} more slots are wrong", slots.size() - 1) : "");
}

void Propose(const SearchSite& site, const std::vector<Node>& nodes, const std::vector<CacheRow>& rows,
             std::string_view what, int parameters, std::vector<Hypothesis>& out) {
  if (rows.empty()) return;
  nlohmann::ordered_json found = nlohmann::ordered_json::array();
  for (const CacheRow& row : rows) {
    constexpr std::size_t kShown = 16;
    if (found.size() == kShown) break;
    const bool read_as = row.source != kAbsent;
    found.push_back({{"query", row.query}, {"slot", row.key}, {"row", nullptr}});
    if (read_as) found.back()["row"] = row.source;
  }
  std::vector<std::int64_t> tokens;
  for (const CacheRow& row : rows) {
    if (tokens.empty() || tokens.back() != row.query) tokens.push_back(row.query);
  }
  out.push_back({.cause = "attn.kv_cache",
                 .edit = site.With(nodes),
                 .expected = "each token's row in its own slot",
                 .found = std::move(found),
                 .statement = "in decode steps " + Describe(rows, what),
                 .fix = "look at the slot that each step writes and reads: it is the number of tokens before it",
                 .tokens = std::move(tokens),
                 .parameters = parameters});
}

Node With(Node node, const std::vector<CacheRow>& rows) {
  if (auto* scores = std::get_if<ScoresOp>(&node.op)) scores->cache = rows;
  if (auto* context = std::get_if<ContextOp>(&node.op)) context->cache = rows;
  return node;
}

// For each wrong score, the token whose key gives it with the same query, for all heads alike; nullopt if one has none.
std::optional<std::vector<CacheRow>> FittedKeys(const SearchSite& site, const Node& node, std::int64_t first) {
  const RecordedSite& recorded = site.replay().recording().At(node.id);
  Node open = node;
  auto& op = std::get<ScoresOp>(open.op);
  op.causal = false;
  op.window = 0;
  const Value every = site.replay().Evaluate(node.id, Replay::Pass::kExact, site.With(open));
  const Value& exact = site.replay().Exact(node.id);
  const Tolerance tolerance(site);
  const std::int64_t heads = exact.shape[0], tokens = exact.shape[1];
  const auto at = [&](const Value& value, std::int64_t h, std::int64_t t, std::int64_t s) {
    return value.data[static_cast<std::size_t>((h * tokens + t) * tokens + s)];
  };
  // Largest distance of the recorded column from what key `source` would give, in tolerances.
  const auto distance = [&](std::int64_t t, std::int64_t s, std::int64_t source) {
    double worst = 0;
    for (std::int64_t h = 0; h < heads; ++h) {
      const double x = at(recorded.value, h, t, s), f = source == kAbsent ? 0.0 : at(every, h, t, source);
      if (!std::isfinite(x)) return std::numeric_limits<double>::infinity();
      worst = std::max(worst, std::fabs(x - f) / std::max(tolerance.At(f), 1e-300));
    }
    return worst;
  };
  std::vector<CacheRow> rows;
  for (std::int64_t t = first; t < tokens; ++t) {
    if (!recorded.token_known[static_cast<std::size_t>(t)]) continue;
    for (std::int64_t s = 0; s <= t; ++s) {
      if (!std::isfinite(at(exact, 0, t, s)) || distance(t, s, s) <= 1) continue;
      CacheRow best{t, s, kAbsent};
      double least = distance(t, s, kAbsent);
      for (std::int64_t source = 0; source <= t; ++source) {
        const double here = distance(t, s, source);
        if (here < least) {
          least = here;
          best.source = source;
        }
      }
      if (!(least <= 1)) return std::nullopt;
      rows.push_back(best);
    }
  }
  return rows;
}

// One slot of V a query that explains what the context is off by: the same other row for all heads.
std::optional<std::vector<CacheRow>> FittedValues(const SearchSite& site, const Node& node, std::int64_t first) {
  const Recording& recording = site.replay().recording();
  const ContextOp op = std::get<ContextOp>(node.op);
  if (op.heads_outermost || op.lanes_outermost) return std::nullopt;
  const RecordedSite& recorded = recording.At(node.id);
  const Value &probs = site.replay().Input(node.inputs[0]), &values = site.replay().Input(node.inputs[1]);
  const Value& exact = site.replay().Exact(node.id);
  const Tolerance tolerance(site);
  const std::int64_t tokens = values.rows();
  const auto prob = [&](std::int64_t h, std::int64_t t, std::int64_t s) {
    return probs.data[static_cast<std::size_t>((h * tokens + t) * tokens + s)];
  };
  const auto fits = [&](std::int64_t t, std::int64_t s, std::int64_t source) {
    for (std::int64_t h = 0; h < op.heads; ++h) {
      const std::int64_t kv = KvHead(h, op.heads, op.kv_heads, op.tiled_heads);
      for (std::int64_t d = 0; d < op.head_dim; ++d) {
        const auto i = static_cast<std::size_t>(h * op.head_dim + d),
                   lane = static_cast<std::size_t>(kv * op.head_dim + d);
        const double other = source == kAbsent ? 0.0 : values.row(source)[lane];
        const double f = exact.row(t)[i] + prob(h, t, s) * (other - values.row(s)[lane]);
        if (!(std::fabs(recorded.value.row(t)[i] - f) <= tolerance.At(f))) return false;
      }
    }
    return true;
  };
  std::vector<CacheRow> rows;
  for (std::int64_t t = first; t < tokens; ++t) {
    if (!recorded.token_known[static_cast<std::size_t>(t)] || fits(t, t, t)) continue;
    bool found = false;
    for (std::int64_t s = t; s >= 0 && !found; --s) {
      for (std::int64_t source = kAbsent; source <= t && !found; ++source) {
        if (source == s || !fits(t, s, source)) continue;
        rows.push_back({t, s, source});
        found = true;
      }
    }
    if (!found) return std::nullopt;
  }
  return rows;
}

// What stands in the slots that a shift leaves free: nothing, what stood there before, or what fell out at the other end.
enum class Freed : std::uint8_t { kZeros, kOwn, kFallen };

// Every decode step finds row `slot - by` in each slot below `end(step's token)`.
std::vector<CacheRow> Shifted(std::int64_t first, std::int64_t tokens, std::int64_t by, Freed freed,
                              bool prompt_alone) {
  std::vector<CacheRow> rows;
  for (std::int64_t t = first; t < tokens; ++t) {
    const std::int64_t end = prompt_alone ? first : t;
    for (std::int64_t s = 0; s < end; ++s) {
      std::int64_t source = s - by;
      if (source < 0 || source >= end) {
        if (freed == Freed::kOwn) continue;
        source = freed == Freed::kZeros ? kAbsent : (source + end) % end;
      }
      rows.push_back({t, s, source});
    }
  }
  return rows;
}

// What decode loops get wrong most: all rows shifted, the newest row missing, or written over the one before.
std::vector<std::vector<CacheRow>> CommonMistakes(std::int64_t first, std::int64_t tokens, std::int64_t farthest) {
  std::vector<CacheRow> left, newest_missing, decoded_missing, overwritten, stays_in_first;
  for (std::int64_t t = first; t < tokens; ++t) {
    for (std::int64_t s = 0; s < t; ++s) left.push_back({t, s, s + 1});
    newest_missing.push_back({t, t, kAbsent});
    for (std::int64_t s = first; s < t; ++s) decoded_missing.push_back({t, s, kAbsent});
    for (std::int64_t s = first; s <= t; ++s) overwritten.push_back({t, s - 1, s});
    overwritten.push_back({t, t, kAbsent});
    for (std::int64_t s = first; s < t; ++s) stays_in_first.push_back({t, s, s == first ? t : kAbsent});
  }
  std::vector<std::vector<CacheRow>> mistakes = {left, newest_missing, decoded_missing, overwritten, stays_in_first};
  for (std::int64_t by = 1; by <= std::min(farthest, first - 1); ++by) {
    for (const std::int64_t signed_by : {by, -by}) {
      for (const Freed freed : {Freed::kZeros, Freed::kOwn, Freed::kFallen}) {
        for (const bool prompt_alone : {false, true})
          mistakes.push_back(Shifted(first, tokens, signed_by, freed, prompt_alone));
      }
    }
  }
  return mistakes;
}

}  // namespace

void ProposeCache(const SearchSite& site, std::vector<Hypothesis>& out) {
  const Recording& recording = site.replay().recording();
  const std::int64_t first = FirstDecoded(recording);
  if (first < 1 || !site.graph().has_cache) return;
  const Node& target = site.target();
  if (std::holds_alternative<ScoresOp>(target.op)) {
    if (const auto rows = FittedKeys(site, target, first)) Propose(site, {With(target, *rows)}, *rows, "key", 1, out);
    return;
  }
  if (std::holds_alternative<ContextOp>(target.op) && recording.Has(target.inputs[0])) {
    if (const auto rows = FittedValues(site, target, first))
      Propose(site, {With(target, *rows)}, *rows, "value", 1, out);
  }
  std::vector<Node> both;
  for (const Node& node : site.segment()) {
    if (std::holds_alternative<ScoresOp>(node.op) || std::holds_alternative<ContextOp>(node.op)) both.push_back(node);
  }
  if (both.empty() || both.size() > 2) return;
  const std::int64_t farthest = site.segment().size() <= 4 ? 4 : 1;  // long stretches take long to replay
  for (const std::vector<CacheRow>& rows : CommonMistakes(first, recording.run.count(), farthest)) {
    std::vector<Node> changed;
    for (const Node& node : both) changed.push_back(With(node, rows));
    Propose(site, changed, rows, both.size() == 2 ? "key and value" : "value", 1, out);
    if (both.size() == 1) continue;
    for (const Node& node : both)
      Propose(site, {With(node, rows)}, rows, std::holds_alternative<ScoresOp>(node.op) ? "key" : "value", 1, out);
  }
}

}  // namespace paritrace
