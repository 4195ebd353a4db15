// nomic-embed-text-v2-moe (arXiv:2502.07972): BERT's post-norm encoder with RoPE in place of learned positions and a mixture in
// every second layer. The router's probabilities run over all experts and are not renormalised; all experts share one bias.
// A GGUF of llama.cpp leaves that bias out, as llama.cpp does.
#include <fmt/format.h>

#include "arch/architectures.h"
#include "arch/decoder.h"
#include "arch/encoder.h"
#include "core/error.h"

namespace paritrace {
namespace {

// Layers i with i % every == 1 are mixtures: the second of each `every`. llama.cpp and the model's own code agree on it for 2.
std::vector<bool> Schedule(const ModelSource& source, std::string_view key, std::int64_t every, int layers) {
  if (every < 2) source.Refuse(key, "at least 2", std::to_string(every));
  std::vector<bool> mixtures;
  for (int layer = 0; layer < layers; ++layer) mixtures.push_back(layer % every == 1);
  return mixtures;
}

std::string HfName(std::string_view role, int layer) {
  static const std::unordered_map<std::string_view, std::string_view> kNames = {
      {"embed", "embeddings.word_embeddings"},
      {"embed.types", "embeddings.token_type_embeddings"},
      {"embed.norm", "emb_ln"},
      {"attn.qkv", "attn.Wqkv"},
      {"attn.out", "attn.out_proj"},
      {"attn.post_norm", "norm1"},
      {"mlp.up", "mlp.fc1"},
      {"mlp.out", "mlp.fc2"},
      {"out.norm", "norm2"},
      {"moe", "mlp"},
      {"moe.router_logits", "mlp.router.layer"}};
  return layer == kAbsent ? std::string(kNames.at(role)) : fmt::format("encoder.layers.{}.{}", layer, kNames.at(role));
}

// The model's own code keeps GPT-2's names in its config.
EncoderPlan ReadHf(const ModelSource& source) {
  EncoderPlan plan{.architecture = source.architecture()};
  plan.layers = static_cast<int>(source.Integer("n_layer"));
  plan.hidden = source.Integer("n_embd");
  plan.intermediate = source.Integer("n_inner", 4 * plan.hidden);
  plan.heads = source.Integer("n_head");
  plan.types = source.Integer("type_vocab_size", 0);
  plan.norm_eps = source.Number("layer_norm_epsilon", 1e-12);
  plan.fused_qkv = true;
  CheckEncoder(source, plan, "n_layer", "n_head");
  for (const char* option : {"prenorm", "use_rms_norm", "parallel_block", "causal", "rotary_emb_interleaved"}) {
    if (source.Flag(option, false))
      throw UsageError(fmt::format("{}: {} is not supported", source.config_file(), option));
  }
  const double turned = source.Number("rotary_emb_fraction", 0);
  if (turned != 1)
    throw UsageError(fmt::format("{}: rotary_emb_fraction {:g} is not supported", source.config_file(), turned));
  for (const char* option : {"rotary_emb_scale_base", "rotary_scaling_factor"}) {
    if (!source.At(option).is_null())
      throw UsageError(fmt::format("{}: {} is not supported", source.config_file(), option));
  }
  if (const std::int64_t every = source.Integer("moe_every_n_layers", 0); every == 0) {
    throw UsageError(fmt::format("{}: nomic_bert without a mixture of experts is not supported", source.config_file()));
  }
  const std::int64_t head_dim = plan.hidden / plan.heads;
  plan.rope = RopeOp{.head_dim = head_dim,
                     .rotary_dim = head_dim,
                     .exponent_dim = head_dim,
                     .theta = source.Number("rotary_emb_base", 10000)};
  plan.activation = ReadHfActivation(source, "activation_function", "gelu");
  if (const TensorView* table = source.Find("embeddings.word_embeddings.weight");
      table != nullptr && table->shape.size() == 2) {
    plan.vocabulary = table->shape[0];  // the config's number is rounded up to pad_vocab_size_multiple
  }
  MixturePlan mixture{.experts = source.Integer("num_experts"),
                      .used = source.Integer("moe_top_k"),
                      .hidden = plan.hidden,
                      .width = plan.intermediate,
                      .activation = plan.activation,
                      .gated = false,
                      .normalised = source.Flag("moe_normalize_expert_weights", false)};
  CheckMixture(source, mixture, "num_experts", "moe_top_k");
  if (const std::int64_t shared = source.Integer("num_shared_experts", 0); shared != 0) {
    throw UsageError(fmt::format("{}: num_shared_experts {} is not supported", source.config_file(), shared));
  }
  mixture.layers = Schedule(source, "moe_every_n_layers", source.Integer("moe_every_n_layers"), plan.layers);
  plan.mixture = std::move(mixture);
  plan.name = HfName;
  return plan;
}

EncoderPlan ReadGguf(const ModelSource& source) {
  const std::string prefix = source.architecture() + ".";
  EncoderPlan plan = ReadGgufEncoder(source);
  plan.fused_qkv = true;
  plan.rope = ReadGgufRope(source, prefix, plan.hidden / plan.heads);
  MixturePlan mixture{.experts = source.Integer(prefix + "expert_count"),
                      .used = source.Integer(prefix + "expert_used_count"),
                      .hidden = plan.hidden,
                      .width = plan.intermediate,
                      .activation = plan.activation,
                      .gated = false};
  CheckMixture(source, mixture, prefix + "expert_count", prefix + "expert_used_count");
  mixture.layers =
      Schedule(source, prefix + "moe_every_n_layers", source.Integer(prefix + "moe_every_n_layers"), plan.layers);
  plan.mixture = std::move(mixture);
  return plan;
}

}  // namespace

Graph BuildNomicBertMoe(const ModelSource& source) {
  return BuildEncoder(source, source.is_gguf() ? ReadGguf(source) : ReadHf(source));
}

}  // namespace paritrace
