#include "arch/encoder.h"

#include <cmath>

#include <fmt/format.h>

#include "core/error.h"

namespace paritrace {
namespace {

class EncoderBuilder {
 public:
  EncoderBuilder(const ModelSource& source, const EncoderPlan& plan)
      : plan_(plan), head_dim_(plan.hidden / plan.heads), bind_(source, graph_, plan.name) {
    graph_.architecture = plan.architecture;
    graph_.vocabulary = plan.vocabulary;
    graph_.hidden = plan.hidden;
    graph_.layers = plan.layers;
    graph_.head_dim = head_dim_;
    graph_.has_cache = false;
    graph_.depends_on_absolute_position = plan.positions > 0;
  }

  Graph Build() {
    NodeId stream = Norm("embed.norm", "embed.norm", kAbsent, Embedding());
    for (int layer = 0; layer < plan_.layers; ++layer) stream = Layer(layer, stream);
    return std::move(graph_);
  }

 private:
  NodeId Lookup(std::string site, std::string_view role, EmbedIndex index, std::int64_t rows) {
    const WeightId table = bind_.Need(role, kAbsent, {rows, plan_.hidden});
    return graph_.Add({.site = std::move(site), .op = EmbedOp{.index = index}, .inputs = {}, .weight = table});
  }

  // Tokens, types and positions, added in this order.
  NodeId Embedding() {
    if (plan_.types == 0 && plan_.positions == 0) return Lookup("embed", "embed", EmbedIndex::kToken, plan_.vocabulary);
    std::vector<NodeId> terms = {Lookup(".embed.tokens", "embed", EmbedIndex::kToken, plan_.vocabulary)};
    if (plan_.types > 0) terms.push_back(Lookup(".embed.types", "embed.types", EmbedIndex::kType, plan_.types));
    if (plan_.positions > 0)
      terms.push_back(Lookup(".embed.positions", "embed.positions", EmbedIndex::kPosition, plan_.positions));
    return graph_.Add({.site = "embed", .op = AddOp{}, .inputs = terms});
  }

  NodeId Norm(std::string site, std::string_view role, int layer, NodeId input) {
    const WeightId weight = bind_.Need(role, layer, {plan_.hidden});
    const WeightId bias = bind_.Bias(role, layer, plan_.hidden);
    return graph_.Add({.site = std::move(site),
                       .layer = layer,
                       .op = NormOp{.kind = NormKind::kLayer, .eps = plan_.norm_eps},
                       .inputs = {input},
                       .weight = weight,
                       .bias = bias});
  }

  NodeId Linear(int layer, std::string_view role, NodeId input, std::int64_t in, std::int64_t out) {
    const WeightId weight = bind_.Need(role, layer, {out, in});
    return AddLinear(layer, role, input, weight, bind_.Bias(role, layer, out));
  }

  NodeId AddLinear(int layer, std::string_view role, NodeId input, WeightId weight, WeightId bias) {
    return graph_.Add({.site = fmt::format("layers.{}.{}", layer, role),
                       .layer = layer,
                       .op = LinearOp{},
                       .inputs = {input},
                       .weight = weight,
                       .bias = bias});
  }

  // q, k or v: a matrix of its own, or `part` of the fused one.
  NodeId Projection(int layer, std::string_view role, int part, NodeId input) {
    const std::int64_t hidden = plan_.hidden;
    if (!plan_.fused_qkv) return Linear(layer, role, input, hidden, hidden);
    const std::string name = plan_.name("attn.qkv", layer);
    const WeightPlace place{std::string(role), layer};
    const TensorView& matrix = bind_.Tensor(name + ".weight", {3 * hidden, hidden});
    const WeightId weight = bind_.Add(RowsOf(matrix, part * hidden, {hidden, hidden}), place);
    WeightId bias = kAbsent;
    if (bind_.source().Find(name + ".bias") != nullptr) {
      const TensorView& vector = bind_.Tensor(name + ".bias", {3 * hidden});
      bias = bind_.Add(RowsOf(vector, part * hidden, {hidden}), {std::string(role) + ".bias", layer});
    }
    return AddLinear(layer, role, input, weight, bias);
  }

  NodeId Rotated(int layer, std::string_view which, NodeId projected) {
    if (!plan_.rope) return projected;
    RopeOp rope = *plan_.rope;
    rope.heads = plan_.heads;
    return graph_.Add({.site = fmt::format("layers.{}.attn.{}_rope", layer, which),
                       .layer = layer,
                       .op = rope,
                       .inputs = {projected}});
  }

  NodeId Attention(int layer, NodeId in) {
    const NodeId q = Projection(layer, "attn.q", 0, in), k = Projection(layer, "attn.k", 1, in),
                 v = Projection(layer, "attn.v", 2, in);
    const NodeId q_rope = Rotated(layer, "q", q), k_rope = Rotated(layer, "k", k);
    const std::string prefix = fmt::format("layers.{}.attn.", layer);
    const NodeId scores = graph_.Add({.site = prefix + "scores",
                                      .layer = layer,
                                      .op = ScoresOp{.heads = plan_.heads,
                                                     .kv_heads = plan_.heads,
                                                     .head_dim = head_dim_,
                                                     .scale = 1.0 / std::sqrt(static_cast<double>(head_dim_)),
                                                     .causal = false},
                                      .inputs = {q_rope, k_rope}});
    const NodeId probs = graph_.Add({.site = prefix + "probs", .layer = layer, .op = SoftmaxOp{}, .inputs = {scores}});
    const NodeId context =
        graph_.Add({.site = prefix + "ctx",
                    .layer = layer,
                    .op = ContextOp{.heads = plan_.heads, .kv_heads = plan_.heads, .head_dim = head_dim_},
                    .inputs = {probs, v}});
    return Linear(layer, "attn.out", context, plan_.hidden, plan_.hidden);
  }

  NodeId Mlp(int layer, NodeId in) {
    if (plan_.mixture && plan_.mixture->layers[static_cast<std::size_t>(layer)])
      return AddMixture(bind_, *plan_.mixture, layer, in);
    const NodeId up = Linear(layer, "mlp.up", in, plan_.hidden, plan_.intermediate);
    const NodeId act = graph_.Add({.site = fmt::format("layers.{}.mlp.act", layer),
                                   .layer = layer,
                                   .op = ActivationOp{.function = plan_.activation},
                                   .inputs = {up}});
    return Linear(layer, "mlp.out", act, plan_.intermediate, plan_.hidden);
  }

  NodeId Layer(int layer, NodeId stream) {
    const std::string prefix = fmt::format("layers.{}.", layer);
    const NodeId in = graph_.Add({.site = prefix + "in", .layer = layer, .op = AddOp{}, .inputs = {stream}});
    const NodeId attention = Attention(layer, in);
    const NodeId middle =
        graph_.Add({.site = prefix + "attn.residual", .layer = layer, .op = AddOp{}, .inputs = {in, attention}});
    const NodeId normed = Norm(prefix + "attn.post_norm", "attn.post_norm", layer, middle);
    const NodeId mlp = Mlp(layer, normed);
    const NodeId sum =
        graph_.Add({.site = prefix + "mlp.residual", .layer = layer, .op = AddOp{}, .inputs = {normed, mlp}});
    return Norm(prefix + "out", "out.norm", layer, sum);
  }

  const EncoderPlan& plan_;
  std::int64_t head_dim_;
  Graph graph_;
  Binder bind_;
};

}  // namespace

Graph BuildEncoder(const ModelSource& source, const EncoderPlan& plan) { return EncoderBuilder(source, plan).Build(); }

void CheckEncoder(const ModelSource& source, const EncoderPlan& plan, std::string_view layers_key,
                  std::string_view heads_key) {
  if (plan.layers < 1) source.Refuse(layers_key, "at least 1", std::to_string(plan.layers));
  if (plan.heads < 1 || plan.hidden % plan.heads != 0) {
    source.Refuse(heads_key, fmt::format("a divisor of the {} lanes", plan.hidden), std::to_string(plan.heads));
  }
}

EncoderPlan ReadGgufEncoder(const ModelSource& source) {
  const std::string prefix = source.architecture() + ".";
  EncoderPlan plan{.architecture = source.architecture()};
  plan.layers = static_cast<int>(source.Integer(prefix + "block_count"));
  plan.hidden = source.Integer(prefix + "embedding_length");
  plan.intermediate = source.Integer(prefix + "feed_forward_length");
  plan.heads = source.Integer(prefix + "attention.head_count");
  plan.norm_eps = source.Number(prefix + "attention.layer_norm_epsilon");
  CheckEncoder(source, plan, prefix + "block_count", prefix + "attention.head_count");
  if (source.Flag(prefix + "attention.causal", false)) {
    throw UsageError(fmt::format("{}: {}attention.causal: a causal encoder is not supported", source.path(), prefix));
  }
  const auto rows_of = [&](const char* name) {
    const TensorView* table = source.Find(name);
    return table == nullptr ? std::int64_t{0} : table->shape.size() == 2 ? table->shape[0] : std::int64_t{1};
  };
  plan.vocabulary = rows_of("token_embd.weight");
  plan.types = rows_of("token_types.weight");
  plan.activation = Activation::kGeluTanh;  // what llama.cpp computes for every encoder with a plain GELU
  plan.name = GgufEncoderName;
  return plan;
}

std::string GgufEncoderName(std::string_view role, int layer) {
  static const std::unordered_map<std::string_view, std::string_view> kNames = {{"embed", "token_embd"},
                                                                                {"embed.types", "token_types"},
                                                                                {"embed.positions", "position_embd"},
                                                                                {"embed.norm", "token_embd_norm"},
                                                                                {"attn.q", "attn_q"},
                                                                                {"attn.k", "attn_k"},
                                                                                {"attn.v", "attn_v"},
                                                                                {"attn.qkv", "attn_qkv"},
                                                                                {"attn.out", "attn_output"},
                                                                                {"attn.post_norm", "attn_output_norm"},
                                                                                {"mlp.up", "ffn_up"},
                                                                                {"mlp.out", "ffn_down"},
                                                                                {"out.norm", "layer_output_norm"},
                                                                                {"moe", "ffn"},
                                                                                {"moe.router_logits", "ffn_gate_inp"}};
  return layer == kAbsent ? std::string(kNames.at(role)) : fmt::format("blk.{}.{}", layer, kNames.at(role));
}

}  // namespace paritrace
