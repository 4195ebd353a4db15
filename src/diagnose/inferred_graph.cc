#include "diagnose/inferred_graph.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "core/decode.h"
#include "core/error.h"

namespace paritrace {
namespace {

constexpr int kMostLayers = 10000;  // a name may claim any number

// Columns of each recorded site, and heads of the scores.
struct SitesSeen {
  std::map<std::string, std::int64_t> widths;
  int layers = 0;
  std::int64_t heads = 0;
  bool rotates = false, sees_later_keys = false;

  [[nodiscard]] std::int64_t Width(const std::string& site) const {
    const auto found = widths.find(site);
    return found == widths.end() ? 0 : found->second;
  }
  [[nodiscard]] bool Has(const std::string& site) const { return widths.contains(site); }
};

bool IsScores(const std::string& site) { return site.ends_with("attn.scores") || site.ends_with("attn.probs"); }

// A key behind the query that takes part: no causal mask. [heads, queries, keys] of a first step.
bool SeesLaterKeys(const TensorView& tensor, const Shape& shape, bool probabilities) {
  const std::vector<double> values = DecodeAll(tensor);
  const std::int64_t queries = shape[1], keys = shape[2];
  for (std::int64_t row = 0; row < shape[0] * queries; ++row) {
    for (std::int64_t key = row % queries + 1; key < std::min(queries, keys); ++key) {
      const double value = values[static_cast<std::size_t>(row * keys + key)];
      if (probabilities ? value > 0 : value > -1e4) return true;
    }
  }
  return false;
}

// Tokens of a step: as the header says, else as the entries' rows do.
std::int64_t TokensOf(const Trace& trace, int step) {
  for (const TraceStep& known : trace.header.steps) {
    if (known.step == step) return known.count;
  }
  std::map<std::int64_t, int> votes;
  for (const TraceEntry& entry : trace.entries) {
    const Shape shape = WithoutLeadingOnes(entry.tensor.shape, 2);
    if (entry.step == step && shape.size() == 2 && !IsScores(entry.site)) ++votes[shape[0]];
  }
  std::int64_t best = 1;
  int most = 0;
  for (const auto& [count, number] : votes) {
    if (number > most) best = count;
    most = std::max(most, number);
  }
  return best;
}

void See(const Trace& trace, SitesSeen& seen) {
  for (const int step : trace.Steps()) {
    const std::int64_t tokens = TokensOf(trace, step);
    for (const TraceEntry& entry : trace.entries) {
      if (entry.step != step || entry.site.empty() || !entry.has_data()) continue;
      if (entry.site.starts_with("layers.")) {
        const long layer = std::atol(entry.site.c_str() + 7);
        if (layer >= 0 && layer < kMostLayers) seen.layers = std::max(seen.layers, static_cast<int>(layer) + 1);
      }
      seen.rotates |= entry.site.ends_with("attn.q_rope");
      if (IsScores(entry.site)) {
        const Shape shape = WithoutLeadingOnes(entry.tensor.shape, 3);
        if (shape.size() != 3) continue;
        if (seen.heads == 0) seen.heads = shape[0];
        seen.widths.try_emplace(entry.site, shape[0]);
        const bool first = step == trace.Steps().front() && shape[1] > 1;
        if (first && Info(entry.tensor.dtype).is_float)
          seen.sees_later_keys |= SeesLaterKeys(entry.tensor, shape, entry.site.ends_with("probs"));
        continue;
      }
      // The last step's logits may be those of one token.
      const std::int64_t size = entry.tensor.size();
      const bool cut = entry.site == "logits" || entry.site == "final_norm";
      const std::int64_t width = cut && !entry.tensor.shape.empty() ? entry.tensor.shape.back()
                                 : tokens > 0 && size % tokens == 0 ? size / tokens
                                                                    : 0;
      if (width > 0) seen.widths.try_emplace(entry.site, width);
    }
  }
}

class Inferrer {
 public:
  explicit Inferrer(const SitesSeen& seen) : seen_(seen) {
    graph_.architecture = "inferred";
    graph_.layers = seen.layers;
    graph_.vocabulary = std::numeric_limits<std::int64_t>::max();
    // Nothing is known of what else depends on positions: a common shift of them is told as a defect.
    graph_.depends_on_absolute_position = !seen.rotates;
  }

  Graph Build() {
    graph_.hidden = StreamWidth();
    NodeId stream = Unknown("embed", kAbsent, graph_.hidden, {});
    if (seen_.Has("embed.norm")) stream = Norm("embed.norm", kAbsent, stream);
    for (int layer = 0; layer < seen_.layers; ++layer) stream = Layer(layer, stream);
    if (seen_.Has("final_norm")) stream = Norm("final_norm", kAbsent, stream);
    if (seen_.Has("logits")) Unknown("logits", kAbsent, seen_.Width("logits"), {stream});
    return std::move(graph_);
  }

 private:
  std::int64_t StreamWidth() const {
    for (const char* site : {"embed", "layers.0.in", "layers.0.out", "layers.0.attn.norm", "final_norm"}) {
      if (seen_.Has(site)) return seen_.Width(site);
    }
    for (const auto& [site, width] : seen_.widths) {
      for (const char* role : {".in", ".out", "attn.norm", "mlp.norm", "residual"}) {
        if (site.ends_with(role)) return width;
      }
    }
    throw IncomparableError(
        "without --model, the traces must hold sites of the residual stream (embed, layers.N.in, layers.N.out or a "
        "norm); "
        "found none");
  }

  NodeId Unknown(std::string site, int layer, std::int64_t width, std::vector<NodeId> inputs) {
    return graph_.Add({.site = std::move(site), .layer = layer, .op = UnknownOp{width}, .inputs = std::move(inputs)});
  }
  NodeId Norm(std::string site, int layer, NodeId input, std::int64_t group = 0) {
    return graph_.Add({.site = std::move(site), .layer = layer, .op = NormOp{.group = group}, .inputs = {input}});
  }
  NodeId NormIfSeen(const std::string& site, int layer, NodeId input, std::int64_t group = 0) {
    return seen_.Has(site) ? Norm(site, layer, input, group) : input;
  }

  NodeId Rotated(int layer, const std::string& which, NodeId projected, std::int64_t width) {
    const std::string prefix = fmt::format("layers.{}.attn.{}", layer, which);
    projected = NormIfSeen(prefix + "_norm", layer, projected, graph_.head_dim);
    if (!seen_.rotates) return projected;
    const RopeOp rope{.heads = width / graph_.head_dim,
                      .head_dim = graph_.head_dim,
                      .rotary_dim = graph_.head_dim,
                      .exponent_dim = graph_.head_dim};
    return graph_.Add({.site = prefix + "_rope", .layer = layer, .op = rope, .inputs = {projected}});
  }

  std::int64_t WidthOfOne(const std::string& prefix, const std::vector<const char*>& roles) const {
    for (const char* role : roles) {
      if (seen_.Has(prefix + role)) return seen_.Width(prefix + role);
    }
    return 0;
  }

  NodeId Attention(int layer, NodeId normed) {
    const std::string prefix = fmt::format("layers.{}.attn.", layer);
    const std::int64_t q_width = WidthOfOne(prefix, {"q", "q_norm", "q_rope", "ctx"}),
                       k_width = WidthOfOne(prefix, {"k", "k_norm", "k_rope", "v"});
    // Without scores the heads' number is not seen: 64 lanes, else the widest power of two that fits.
    std::int64_t dim = seen_.heads > 0 ? q_width / seen_.heads : 64;
    while (seen_.heads == 0 && dim > 2 && (q_width % dim != 0 || k_width % dim != 0)) dim /= 2;
    const bool fits = q_width > 0 && k_width > 0 && dim >= 2 && dim % 2 == 0 && q_width % dim == 0 &&
                      k_width % dim == 0 && (q_width / dim) % (k_width / dim) == 0;
    if (!fits) return Unknown(prefix + "out", layer, graph_.hidden, {normed});
    graph_.head_dim = dim;
    const NodeId q = Unknown(prefix + "q", layer, q_width, {normed}),
                 k = Unknown(prefix + "k", layer, k_width, {normed}),
                 v = Unknown(prefix + "v", layer, k_width, {normed});
    const NodeId q_rope = Rotated(layer, "q", q, q_width), k_rope = Rotated(layer, "k", k, k_width);
    const NodeId scores = graph_.Add({.site = prefix + "scores",
                                      .layer = layer,
                                      .op = ScoresOp{.heads = q_width / dim,
                                                     .kv_heads = k_width / dim,
                                                     .head_dim = dim,
                                                     .scale = 1 / std::sqrt(static_cast<double>(dim)),
                                                     .causal = !seen_.sees_later_keys},
                                      .inputs = {q_rope, k_rope}});
    const NodeId probs = graph_.Add({.site = prefix + "probs", .layer = layer, .op = SoftmaxOp{}, .inputs = {scores}});
    const NodeId context =
        graph_.Add({.site = prefix + "ctx",
                    .layer = layer,
                    .op = ContextOp{.heads = q_width / dim, .kv_heads = k_width / dim, .head_dim = dim},
                    .inputs = {probs, v}});
    return Unknown(prefix + "out", layer, graph_.hidden, {NormIfSeen(prefix + "ctx_norm", layer, context)});
  }

  NodeId Mixture(int layer, NodeId normed) {
    const std::string prefix = fmt::format("layers.{}.moe.", layer);
    const std::int64_t experts = WidthOfOne(prefix, {"router_logits", "probs"});
    const NodeId logits = Unknown(prefix + "router_logits", layer, experts, {normed});
    const NodeId probs =
        graph_.Add({.site = prefix + "probs", .layer = layer, .op = RouterProbsOp{}, .inputs = {logits}});
    const std::int64_t used = seen_.Width(prefix + "experts");
    std::vector<NodeId> inputs = {normed};
    if (used > 0 && used <= experts) {
      const NodeId chosen = graph_.Add({.site = prefix + "experts",
                                        .layer = layer,
                                        .op = TopExpertsOp{.experts = experts, .used = used},
                                        .inputs = {probs}});
      inputs.push_back(chosen);
      inputs.push_back(
          graph_.Add({.site = prefix + "weights", .layer = layer, .op = ExpertWeightsOp{}, .inputs = {probs, chosen}}));
    }
    return Unknown(prefix + "out", layer, graph_.hidden, std::move(inputs));
  }

  NodeId Mlp(int layer, NodeId normed) {
    const std::string prefix = fmt::format("layers.{}.", layer);
    if (seen_.Has(prefix + "moe.router_logits") || seen_.Has(prefix + "moe.probs")) return Mixture(layer, normed);
    const std::int64_t width = WidthOfOne(prefix, {"mlp.up", "mlp.gate", "mlp.act"});
    if (width == 0) return Unknown(prefix + "mlp.out", layer, graph_.hidden, {normed});
    std::vector<NodeId> inputs;
    if (seen_.Has(prefix + "mlp.gate")) inputs.push_back(Unknown(prefix + "mlp.gate", layer, width, {normed}));
    inputs.push_back(Unknown(prefix + "mlp.up", layer, width, {normed}));
    const NodeId act =
        graph_.Add({.site = prefix + "mlp.act", .layer = layer, .op = ActivationOp{}, .inputs = std::move(inputs)});
    return Unknown(prefix + "mlp.out", layer, graph_.hidden, {NormIfSeen(prefix + "mlp.act_norm", layer, act)});
  }

  NodeId Layer(int layer, NodeId stream) {
    const std::string prefix = fmt::format("layers.{}.", layer);
    const auto sum = [&](const std::string& site, std::vector<NodeId> terms) {
      return graph_.Add({.site = prefix + site, .layer = layer, .op = AddOp{}, .inputs = std::move(terms)});
    };
    const NodeId in = sum("in", {stream});
    const NodeId attention = Attention(layer, NormIfSeen(prefix + "attn.norm", layer, in));
    // A post-norm model has this norm and none before its attention; where both stand, the norm is the branch's own.
    const bool post_norm = seen_.Has(prefix + "attn.post_norm") && !seen_.Has(prefix + "attn.norm");
    const NodeId residual = sum("attn.residual", {in, attention});
    const NodeId middle = post_norm ? Norm(prefix + "attn.post_norm", layer, residual) : residual;
    const NodeId branch = Mlp(layer, NormIfSeen(prefix + "mlp.norm", layer, middle));
    const NodeId total = sum("mlp.residual", {middle, branch});
    return post_norm ? Norm(prefix + "out", layer, total) : sum("out", {total});
  }

  const SitesSeen& seen_;
  Graph graph_;
};

}  // namespace

Graph InferGraph(const Trace& reference, const Trace& subject) {
  SitesSeen seen;
  See(reference, seen);
  See(subject, seen);
  return Inferrer(seen).Build();
}

}  // namespace paritrace
