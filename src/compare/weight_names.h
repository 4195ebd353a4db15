// What a weight's name means, whoever gave it: Hugging Face's modules, llama.cpp's tensors. Two files of one model name
// nothing alike; what they hold is paired by the place of the weight in the model.
// Kept apart from arch/ on purpose: a file whose config and shapes contradict each other, which no graph can be built from,
// is exactly what `paritrace weights` is asked about.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace paritrace {

struct WeightPlaceName {
  std::string role;  // as in arch/: the site it belongs to, without its layer: "attn.q", "mlp.norm", "moe.gate"
  int layer = -1;    // -1 outside the layers
  int expert = -1;   // -1: no expert, or all of them stacked
  bool bias = false;
  bool stacked = false;  // [experts, …]

  // "layers.3.attn.q", "layers.3.moe.gate.5", "embed", "layers.0.attn.q.bias"
  [[nodiscard]] std::string Key() const;
};

// nullopt for a name that stands for no weight we know.
//   norms_after: the file also has norms behind the sublayers (Gemma 2), which changes what post_attention_layernorm means
[[nodiscard]] std::optional<WeightPlaceName> PlaceOfWeight(std::string_view name, bool norms_after);

// What follows from others or holds no weight of the model: RoPE frequencies, position ids, scales beside a weight.
[[nodiscard]] bool IsDerived(std::string_view name);

[[nodiscard]] bool IsNormRole(std::string_view role);

}  // namespace paritrace
