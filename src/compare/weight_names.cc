#include "compare/weight_names.h"

#include <algorithm>
#include <array>
#include <charconv>

#include <fmt/format.h>

namespace paritrace {
namespace {

struct Rule {
  std::string_view name, role;
};

// Outside the layers; matched at the end of a name, on a dot.
constexpr auto kTop = std::to_array<Rule>({
    {"embed_tokens", "embed"},
    {"word_embeddings", "embed"},
    {"token_embd", "embed"},
    {"tok_embeddings", "embed"},
    {"position_embeddings", "embed.position"},
    {"position_embd", "embed.position"},
    {"token_type_embeddings", "embed.type"},
    {"token_types", "embed.type"},
    {"embeddings.LayerNorm", "embed.norm"},
    {"emb_ln", "embed.norm"},
    {"token_embd_norm", "embed.norm"},
    {"output_norm", "final_norm"},
    {"norm", "final_norm"},
    {"lm_head", "logits"},
    {"output", "logits"},
});

// Within a layer; the whole of what follows its number. "*" stands for an expert's number.
constexpr auto kLayer = std::to_array<Rule>({
    // Hugging Face's decoders
    {"input_layernorm", "attn.norm"},
    {"self_attn.q_proj", "attn.q"},
    {"self_attn.k_proj", "attn.k"},
    {"self_attn.v_proj", "attn.v"},
    {"self_attn.o_proj", "attn.out"},
    {"self_attn.qkv_proj", "attn.qkv"},
    {"self_attn.q_norm", "attn.q_norm"},
    {"self_attn.k_norm", "attn.k_norm"},
    {"self_attn.attn_sub_norm", "attn.ctx_norm"},
    {"post_attention_layernorm", "mlp.norm"},
    {"pre_feedforward_layernorm", "mlp.norm"},
    {"post_feedforward_layernorm", "mlp.post_norm"},
    {"mlp.gate_proj", "mlp.gate"},
    {"mlp.up_proj", "mlp.up"},
    {"mlp.down_proj", "mlp.out"},
    {"mlp.ffn_sub_norm", "mlp.act_norm"},
    {"mlp.gate", "moe.router"},
    {"block_sparse_moe.gate", "moe.router"},
    {"mlp.experts.*.gate_proj", "moe.gate"},
    {"mlp.experts.*.up_proj", "moe.up"},
    {"mlp.experts.*.down_proj", "moe.down"},
    {"mlp.experts.down_proj", "moe.down"},
    {"block_sparse_moe.experts.*.w1", "moe.gate"},
    {"block_sparse_moe.experts.*.w3", "moe.up"},
    {"block_sparse_moe.experts.*.w2", "moe.down"},
    {"mlp.shared_expert.gate_proj", "moe.shared.gate"},
    {"mlp.shared_expert.up_proj", "moe.shared.up"},
    {"mlp.shared_expert.down_proj", "moe.shared.down"},
    {"mlp.shared_expert_gate", "moe.shared.open"},
    // BERT and Nomic
    {"attention.self.query", "attn.q"},
    {"attention.self.key", "attn.k"},
    {"attention.self.value", "attn.v"},
    {"attention.output.dense", "attn.out"},
    {"attention.output.LayerNorm", "attn.post_norm"},
    {"intermediate.dense", "mlp.up"},
    {"output.dense", "mlp.out"},
    {"output.LayerNorm", "mlp.post_norm"},
    {"attn.Wqkv", "attn.qkv"},
    {"attn.out_proj", "attn.out"},
    {"norm1", "attn.post_norm"},
    {"norm2", "mlp.post_norm"},
    {"mlp.fc1", "mlp.up"},
    {"mlp.fc2", "mlp.out"},
    {"mlp.router.layer", "moe.router"},
    // llama.cpp
    {"attn_norm", "attn.norm"},
    {"attn_q", "attn.q"},
    {"attn_k", "attn.k"},
    {"attn_v", "attn.v"},
    {"attn_qkv", "attn.qkv"},
    {"attn_output", "attn.out"},
    {"attn_q_norm", "attn.q_norm"},
    {"attn_k_norm", "attn.k_norm"},
    {"attn_sub_norm", "attn.ctx_norm"},
    {"attn_output_norm", "attn.post_norm"},
    {"layer_output_norm", "mlp.post_norm"},
    {"post_attention_norm", "attn.post_norm"},
    {"post_ffw_norm", "mlp.post_norm"},
    {"ffn_norm", "mlp.norm"},
    {"ffn_gate", "mlp.gate"},
    {"ffn_up", "mlp.up"},
    {"ffn_down", "mlp.out"},
    {"ffn_sub_norm", "mlp.act_norm"},
    {"ffn_gate_inp", "moe.router"},
    {"ffn_gate_exps", "moe.gate"},
    {"ffn_up_exps", "moe.up"},
    {"ffn_down_exps", "moe.down"},
    {"ffn_gate_shexp", "moe.shared.gate"},
    {"ffn_up_shexp", "moe.shared.up"},
    {"ffn_down_shexp", "moe.shared.down"},
    {"ffn_gate_inp_shexp", "moe.shared.open"},
});

bool TakeEnding(std::string_view& name, std::string_view ending) {
  if (!name.ends_with(ending)) return false;
  name.remove_suffix(ending.size());
  return true;
}

// The number right at the start of `text`, taken off; -1 if there is none or it is no small number.
int TakeNumber(std::string_view& text) {
  int number = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || number < 0) return -1;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return number;
}

// The layer's number, and in `rest` what follows it; -1 where the name is of no layer.
int TakeLayer(std::string_view name, std::string_view& rest) {
  for (const std::string_view word : {"layers.", "layer.", "blk.", "h.", "blocks."}) {
    for (std::size_t at = name.find(word); at != std::string_view::npos; at = name.find(word, at + 1)) {
      if (at > 0 && name[at - 1] != '.') continue;
      std::string_view tail = name.substr(at + word.size());
      const int layer = TakeNumber(tail);
      if (layer < 0 || !tail.starts_with(".")) continue;
      rest = tail.substr(1);
      return layer;
    }
  }
  return -1;
}

}  // namespace

std::string WeightPlaceName::Key() const {
  std::string key = layer < 0 ? role : fmt::format("layers.{}.{}", layer, role);
  if (expert >= 0) key += fmt::format(".{}", expert);
  return bias ? key + ".bias" : key;
}

std::optional<WeightPlaceName> PlaceOfWeight(std::string_view name, bool norms_after) {
  WeightPlaceName place;
  place.bias = TakeEnding(name, ".bias");
  if (!place.bias) TakeEnding(name, ".weight");
  std::string_view rest;
  place.layer = TakeLayer(name, rest);
  if (place.layer < 0) {
    for (const Rule& rule : kTop) {
      const bool ends = name.ends_with(rule.name) &&
                        (name.size() == rule.name.size() || name[name.size() - rule.name.size() - 1] == '.');
      if (!ends) continue;
      place.role = rule.role;
      return place;
    }
    return std::nullopt;
  }
  std::string pattern(rest);
  constexpr std::string_view kExperts = "experts.";
  if (const std::size_t at = rest.find(kExperts); at != std::string_view::npos) {
    std::string_view tail = rest.substr(at + kExperts.size());
    if (const int expert = TakeNumber(tail); expert >= 0) {
      place.expert = expert;
      pattern = fmt::format("{}*{}", rest.substr(0, at + kExperts.size()), tail);
    }
  }
  for (const Rule& rule : kLayer) {
    if (rule.name != pattern) continue;
    place.role = rule.role;
    if (norms_after && rule.name == "post_attention_layernorm") place.role = "attn.post_norm";
    place.stacked = place.expert < 0 && (pattern.ends_with("_exps") || pattern == "mlp.experts.down_proj");
    return place;
  }
  return std::nullopt;
}

bool IsDerived(std::string_view name) {
  return name.ends_with("inv_freq") || name.ends_with("rope_freqs.weight") || name.ends_with("position_ids") ||
         name.ends_with("_scale") || name.ends_with(".scale") || name.ends_with("attn.masked_bias");
}

bool IsNormRole(std::string_view role) { return role.ends_with("norm"); }

}  // namespace paritrace
