#include "arch/decoder.h"

#include <cmath>

#include <fmt/format.h>

#include "core/error.h"

namespace paritrace {
namespace {

class DecoderBuilder {
 public:
  DecoderBuilder(const ModelSource& source, const DecoderPlan& plan) : plan_(plan), bind_(source, graph_, plan.name) {
    graph_.architecture = plan.architecture;
    graph_.vocabulary = plan.vocabulary;
    graph_.hidden = plan.hidden;
    graph_.layers = plan.layers;
    graph_.head_dim = plan.head_dim;
    graph_.q_rows_interleaved = plan.q_rows_interleaved;
  }

  Graph Build() {
    const WeightId table = bind_.Need("embed", kAbsent, {plan_.vocabulary, plan_.hidden});
    NodeId stream =
        graph_.Add({.site = "embed", .op = EmbedOp{.scale = plan_.embed_scale}, .inputs = {}, .weight = table});
    for (int layer = 0; layer < plan_.layers; ++layer) stream = Layer(layer, stream);
    const NodeId normed = Norm("final_norm", "final_norm", kAbsent, stream);
    const WeightId head = plan_.tied_head ? table : bind_.Need("logits", kAbsent, {plan_.vocabulary, plan_.hidden});
    if (plan_.tied_head) AddUnusedHead();
    if (plan_.logit_softcap == 0) {
      graph_.Add({.site = "logits", .op = LinearOp{}, .inputs = {normed}, .weight = head});
      return std::move(graph_);
    }
    const NodeId raw = graph_.Add({.site = ".logits.uncapped", .op = LinearOp{}, .inputs = {normed}, .weight = head});
    graph_.Add({.site = "logits", .op = ScaleOp{.softcap = plan_.logit_softcap}, .inputs = {raw}});
    return std::move(graph_);
  }

 private:
  // A file may hold a head although its config ties it: nothing is computed with it, but a subject may have done so.
  void AddUnusedHead() {
    const TensorView* head = bind_.source().Find(plan_.name("logits", kAbsent) + ".weight");
    if (head != nullptr && head->shape == Shape{plan_.vocabulary, plan_.hidden}) bind_.Add(*head, {"logits", kAbsent});
  }

  NodeId Norm(std::string site, std::string_view role, int layer, NodeId input) {
    const WeightId weight = bind_.Need(role, layer, {plan_.hidden});
    return graph_.Add({.site = std::move(site),
                       .layer = layer,
                       .op = NormOp{.eps = plan_.norm_eps, .use = plan_.norm_weight},
                       .inputs = {input},
                       .weight = weight});
  }

  NodeId Linear(int layer, std::string_view role, NodeId input, std::int64_t in, std::int64_t out) {
    LinearOp op;
    WeightId weight = kAbsent;
    if (const auto bits = plan_.bit_matrix ? plan_.bit_matrix(role, layer, {out, in}) : std::nullopt) {
      op.bits = bits->bits;
      op.weight_scale = bits->scale;
      weight = bind_.Add(bits->tensor, {std::string(role), layer});
    } else {
      weight = bind_.Need(role, layer, {out, in});
    }
    const WeightId bias = bind_.Bias(role, layer, out);
    return graph_.Add({.site = fmt::format("layers.{}.{}", layer, role),
                       .layer = layer,
                       .op = op,
                       .inputs = {input},
                       .weight = weight,
                       .bias = bias});
  }

  // BitNet's norm of what enters an output projection.
  NodeId InnerNorm(int layer, std::string_view role, NodeId input, std::int64_t width) {
    if (!plan_.inner_norms) return input;
    const WeightId weight = bind_.Need(role, layer, {width});
    return graph_.Add({.site = fmt::format("layers.{}.{}", layer, role),
                       .layer = layer,
                       .op = NormOp{.eps = plan_.norm_eps, .use = plan_.norm_weight},
                       .inputs = {input},
                       .weight = weight});
  }

  // A projection with its norm, if the model has one, and its rotation.
  NodeId Rotated(int layer, std::string_view which, NodeId projected, std::int64_t heads) {
    if (plan_.q_k_norms) {
      const std::string role = fmt::format("attn.{}_norm", which);
      const WeightId weight = bind_.Need(role, layer, {plan_.head_dim});
      projected = graph_.Add({.site = fmt::format("layers.{}.{}", layer, role),
                              .layer = layer,
                              .op = NormOp{.eps = plan_.norm_eps, .use = plan_.norm_weight, .group = plan_.head_dim},
                              .inputs = {projected},
                              .weight = weight});
    }
    RopeOp rope = plan_.rope;
    rope.heads = heads;
    return graph_.Add({.site = fmt::format("layers.{}.attn.{}_rope", layer, which),
                       .layer = layer,
                       .op = rope,
                       .inputs = {projected}});
  }

  NodeId Attention(int layer, NodeId normed) {
    const std::int64_t q_width = plan_.heads * plan_.head_dim, kv_width = plan_.kv_heads * plan_.head_dim;
    const NodeId q = Linear(layer, "attn.q", normed, plan_.hidden, q_width);
    const NodeId k = Linear(layer, "attn.k", normed, plan_.hidden, kv_width);
    const NodeId v = Linear(layer, "attn.v", normed, plan_.hidden, kv_width);
    const NodeId q_rope = Rotated(layer, "q", q, plan_.heads), k_rope = Rotated(layer, "k", k, plan_.kv_heads);
    const std::int64_t window = plan_.windows.empty() ? 0 : plan_.windows[static_cast<std::size_t>(layer)];
    const std::string prefix = fmt::format("layers.{}.attn.", layer);
    const NodeId scores = graph_.Add({.site = prefix + "scores",
                                      .layer = layer,
                                      .op = ScoresOp{.heads = plan_.heads,
                                                     .kv_heads = plan_.kv_heads,
                                                     .head_dim = plan_.head_dim,
                                                     .scale = plan_.attention_scale,
                                                     .scales_query = plan_.scales_query,
                                                     .softcap = plan_.attention_softcap,
                                                     .window = window},
                                      .inputs = {q_rope, k_rope}});
    const NodeId probs = graph_.Add({.site = prefix + "probs", .layer = layer, .op = SoftmaxOp{}, .inputs = {scores}});
    const NodeId context =
        graph_.Add({.site = prefix + "ctx",
                    .layer = layer,
                    .op = ContextOp{.heads = plan_.heads, .kv_heads = plan_.kv_heads, .head_dim = plan_.head_dim},
                    .inputs = {probs, v}});
    return Linear(layer, "attn.out", InnerNorm(layer, "attn.ctx_norm", context, q_width), q_width, plan_.hidden);
  }

  NodeId Mlp(int layer, NodeId normed) {
    if (plan_.mixture && plan_.mixture->layers[static_cast<std::size_t>(layer)])
      return AddMixture(bind_, *plan_.mixture, layer, normed);
    const NodeId gate = Linear(layer, "mlp.gate", normed, plan_.hidden, plan_.intermediate);
    const NodeId up = Linear(layer, "mlp.up", normed, plan_.hidden, plan_.intermediate);
    const NodeId act = graph_.Add({.site = fmt::format("layers.{}.mlp.act", layer),
                                   .layer = layer,
                                   .op = ActivationOp{.function = plan_.activation},
                                   .inputs = {gate, up}});
    return Linear(layer, "mlp.out", InnerNorm(layer, "mlp.act_norm", act, plan_.intermediate), plan_.intermediate,
                  plan_.hidden);
  }

  // A sublayer's output as it is added to the stream.
  NodeId Output(int layer, std::string_view block, NodeId output) {
    if (!plan_.output_norms) return output;
    return Norm(fmt::format(".layers.{}.{}.output_norm", layer, block), fmt::format("{}.output_norm", block), layer,
                output);
  }

  // The layer's input is its own site, and the same tensor as the previous layer's output: a sum of one term.
  NodeId Layer(int layer, NodeId stream) {
    const std::string prefix = fmt::format("layers.{}.", layer);
    const NodeId in = graph_.Add({.site = prefix + "in", .layer = layer, .op = AddOp{}, .inputs = {stream}});
    const NodeId attention =
        Output(layer, "attn", Attention(layer, Norm(prefix + "attn.norm", "attn.norm", layer, in)));
    const NodeId middle =
        graph_.Add({.site = prefix + "attn.residual", .layer = layer, .op = AddOp{}, .inputs = {in, attention}});
    const NodeId mlp = Output(layer, "mlp", Mlp(layer, Norm(prefix + "mlp.norm", "mlp.norm", layer, middle)));
    const NodeId sum =
        graph_.Add({.site = prefix + "mlp.residual", .layer = layer, .op = AddOp{}, .inputs = {middle, mlp}});
    return graph_.Add({.site = prefix + "out", .layer = layer, .op = AddOp{}, .inputs = {sum}});
  }

  const DecoderPlan& plan_;
  Graph graph_;
  Binder bind_;
};

}  // namespace

Graph BuildDecoder(const ModelSource& source, const DecoderPlan& plan) { return DecoderBuilder(source, plan).Build(); }

std::string HfDecoderName(const ModelSource& source, std::string_view role, int layer) {
  static const std::unordered_map<std::string_view, std::string_view> kNames = {
      {"embed", "embed_tokens"},
      {"final_norm", "norm"},
      {"attn.norm", "input_layernorm"},
      {"attn.q", "self_attn.q_proj"},
      {"attn.k", "self_attn.k_proj"},
      {"attn.v", "self_attn.v_proj"},
      {"attn.q_norm", "self_attn.q_norm"},
      {"attn.k_norm", "self_attn.k_norm"},
      {"attn.out", "self_attn.o_proj"},
      {"mlp.norm", "post_attention_layernorm"},
      {"mlp.gate", "mlp.gate_proj"},
      {"mlp.up", "mlp.up_proj"},
      {"mlp.out", "mlp.down_proj"},
      {"moe", "mlp"},
      {"attn.ctx_norm", "self_attn.attn_sub_norm"},
      {"mlp.act_norm", "mlp.ffn_sub_norm"},
      {"moe.router_logits", "mlp.gate"},
      {"moe.shared.gate", "mlp.shared_expert.gate_proj"},
      {"moe.shared.up", "mlp.shared_expert.up_proj"},
      {"moe.shared.down", "mlp.shared_expert.down_proj"},
      {"moe.shared.open", "mlp.shared_expert_gate"}};
  if (role == "logits") return "lm_head";
  // A folder saved from the bare model, without its head, leaves the prefix out.
  const std::string prefix = source.Find("embed_tokens.weight") != nullptr ? "" : "model.";
  return layer == kAbsent ? fmt::format("{}{}", prefix, kNames.at(role))
                          : fmt::format("{}layers.{}.{}", prefix, layer, kNames.at(role));
}

std::string GgufDecoderName(std::string_view role, int layer) {
  static const std::unordered_map<std::string_view, std::string_view> kNames = {
      {"embed", "token_embd"},
      {"final_norm", "output_norm"},
      {"logits", "output"},
      {"attn.norm", "attn_norm"},
      {"attn.q", "attn_q"},
      {"attn.k", "attn_k"},
      {"attn.v", "attn_v"},
      {"attn.q_norm", "attn_q_norm"},
      {"attn.k_norm", "attn_k_norm"},
      {"attn.out", "attn_output"},
      {"mlp.norm", "ffn_norm"},
      {"mlp.gate", "ffn_gate"},
      {"mlp.up", "ffn_up"},
      {"mlp.out", "ffn_down"},
      {"attn.output_norm", "post_attention_norm"},
      {"mlp.output_norm", "post_ffw_norm"},
      {"moe", "ffn"},
      {"attn.ctx_norm", "attn_sub_norm"},
      {"mlp.act_norm", "ffn_sub_norm"},
      {"moe.router_logits", "ffn_gate_inp"},
      {"moe.shared.gate", "ffn_gate_shexp"},
      {"moe.shared.up", "ffn_up_shexp"},
      {"moe.shared.down", "ffn_down_shexp"},
      {"moe.shared.open", "ffn_gate_inp_shexp"}};
  return layer == kAbsent ? std::string(kNames.at(role)) : fmt::format("blk.{}.{}", layer, kNames.at(role));
}

Activation ReadHfActivation(const ModelSource& source, std::string_view key, std::string_view fallback) {
  const std::string name = source.Text(key, fallback);
  const auto parsed = ParseActivation(name);
  if (!parsed)
    throw UsageError(fmt::format("{}: {}: activation \"{}\" is not supported", source.config_file(), key, name));
  return *parsed;
}

DecoderPlan ReadHfDecoder(const ModelSource& source) {
  DecoderPlan plan;
  plan.architecture = source.architecture();
  plan.layers = static_cast<int>(source.Integer("num_hidden_layers"));
  plan.hidden = source.Integer("hidden_size");
  plan.intermediate = source.Integer("intermediate_size");
  plan.heads = source.Integer("num_attention_heads");
  plan.kv_heads = source.Integer("num_key_value_heads", plan.heads);
  plan.vocabulary = source.Integer("vocab_size");
  if (plan.layers < 1) source.Refuse("num_hidden_layers", "at least 1", std::to_string(plan.layers));
  if (plan.heads < 1) source.Refuse("num_attention_heads", "at least 1", std::to_string(plan.heads));
  if (plan.kv_heads < 1 || plan.heads % plan.kv_heads != 0) {
    source.Refuse("num_key_value_heads", fmt::format("a divisor of {} heads", plan.heads),
                  std::to_string(plan.kv_heads));
  }
  plan.head_dim = source.Integer("head_dim", plan.hidden / plan.heads);
  if (plan.head_dim < 2 || plan.head_dim % 2 != 0)
    source.Refuse("head_dim", "an even number", std::to_string(plan.head_dim));
  plan.norm_eps = source.Number("rms_norm_eps", 1e-6);
  plan.attention_scale = 1.0 / std::sqrt(static_cast<double>(plan.head_dim));
  plan.activation = ReadHfActivation(source, "hidden_act", "silu");
  plan.tied_head = source.Flag("tie_word_embeddings", false) || source.Find("lm_head.weight") == nullptr;
  plan.name = [&source](std::string_view role, int layer) { return HfDecoderName(source, role, layer); };
  return plan;
}

DecoderPlan ReadGgufDecoder(const ModelSource& source) {
  const std::string prefix = source.architecture() + ".";
  DecoderPlan plan;
  plan.architecture = source.architecture();
  plan.layers = static_cast<int>(source.Integer(prefix + "block_count"));
  plan.hidden = source.Integer(prefix + "embedding_length");
  plan.intermediate = source.Integer(prefix + "feed_forward_length", 0);  // a mixture may have none
  plan.heads = source.Integer(prefix + "attention.head_count");
  plan.kv_heads = source.Integer(prefix + "attention.head_count_kv", plan.heads);
  if (plan.layers < 1) source.Refuse(prefix + "block_count", "at least 1", std::to_string(plan.layers));
  if (plan.heads < 1) source.Refuse(prefix + "attention.head_count", "at least 1", std::to_string(plan.heads));
  if (plan.kv_heads < 1 || plan.heads % plan.kv_heads != 0) {
    source.Refuse(prefix + "attention.head_count_kv", fmt::format("a divisor of {} heads", plan.heads),
                  std::to_string(plan.kv_heads));
  }
  plan.head_dim = source.Integer(prefix + "attention.key_length", plan.hidden / plan.heads);
  if (plan.head_dim < 2 || plan.head_dim % 2 != 0) {
    source.Refuse(prefix + "attention.key_length", "an even number", std::to_string(plan.head_dim));
  }
  const TensorView* table = source.Find("token_embd.weight");
  if (table == nullptr || table->shape.size() != 2) {
    throw FormatError(source.path(), "tensor \"token_embd.weight\"", "a matrix", "none");
  }
  plan.vocabulary = table->shape[0];
  plan.norm_eps = source.Number(prefix + "attention.layer_norm_rms_epsilon");
  plan.attention_scale = 1.0 / std::sqrt(static_cast<double>(plan.head_dim));
  plan.tied_head = source.Find("output.weight") == nullptr;
  plan.rope = ReadGgufRope(source, prefix, plan.head_dim);
  plan.name = GgufDecoderName;
  return plan;
}

}  // namespace paritrace
