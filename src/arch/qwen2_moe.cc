// Qwen1.5-MoE and Qwen2-MoE (arXiv:2407.10671, section 2.2.2): Qwen2 with a mixture in most layers, beside an expert that every
// token uses through a gate of its own. The weights of the chosen are their plain probabilities unless the config says otherwise.
#include <algorithm>

#include <fmt/format.h>

#include "arch/architectures.h"
#include "arch/decoder.h"
#include "core/error.h"

namespace paritrace {
namespace {

// Every `decoder_sparse_step`-th layer is a mixture, unless mlp_only_layers names it.
std::vector<bool> HfSchedule(const ModelSource& source, int layers) {
  const std::int64_t step = source.Integer("decoder_sparse_step", 1);
  if (step < 1) source.Refuse("decoder_sparse_step", "at least 1", std::to_string(step));
  const auto& dense = source.At("mlp_only_layers");
  std::vector<bool> mixtures;
  for (int layer = 0; layer < layers; ++layer) {
    const bool is_dense = dense.is_array() && std::ranges::any_of(dense, [&](const auto& named) {
                            return named.is_number_integer() && named == layer;
                          });
    mixtures.push_back(!is_dense && (layer + 1) % step == 0);
  }
  return mixtures;
}

DecoderPlan ReadHf(const ModelSource& source) {
  DecoderPlan plan = ReadHfDecoder(source);
  plan.rope = ReadHfRope(source, plan.head_dim, 10000);
  if (source.Flag("use_sliding_window", false)) {
    const std::int64_t window = source.Integer("sliding_window"), last = source.Integer("max_window_layers", 28);
    const auto& types = source.At("layer_types");
    for (int layer = 0; layer < plan.layers; ++layer) {
      const auto at = static_cast<std::size_t>(layer);
      const bool slides =
          types.is_array() && at < types.size() ? types[at] == "sliding_attention" : layer % 2 == 0 && layer < last;
      plan.windows.push_back(slides ? window : 0);
    }
  }
  MixturePlan mixture{.experts = source.Integer("num_experts", 60),
                      .used = source.Integer("num_experts_per_tok", 4),
                      .hidden = plan.hidden,
                      .width = source.Integer("moe_intermediate_size", 1408),
                      .activation = plan.activation,
                      .normalised = source.Flag("norm_topk_prob", false),
                      .shared_width = source.Integer("shared_expert_intermediate_size", 5632)};
  if (mixture.experts == 0) return plan;
  CheckMixture(source, mixture, "num_experts", "num_experts_per_tok");
  mixture.layers = HfSchedule(source, plan.layers);
  plan.mixture = std::move(mixture);
  return plan;
}

DecoderPlan ReadGguf(const ModelSource& source) {
  const std::string prefix = source.architecture() + ".";
  DecoderPlan plan = ReadGgufDecoder(source);
  MixturePlan mixture{.experts = source.Integer(prefix + "expert_count"),
                      .used = source.Integer(prefix + "expert_used_count"),
                      .hidden = plan.hidden,
                      .activation = plan.activation};
  CheckMixture(source, mixture, prefix + "expert_count", prefix + "expert_used_count");
  // llama.cpp's own rule where the file does not say: the dense width shared among the experts of a token, and as it is.
  mixture.width = source.Integer(prefix + "expert_feed_forward_length", plan.intermediate / mixture.used);
  mixture.shared_width = source.Integer(prefix + "expert_shared_feed_forward_length", plan.intermediate);
  mixture.layers.assign(static_cast<std::size_t>(plan.layers), true);
  plan.mixture = std::move(mixture);
  return plan;
}

}  // namespace

Graph BuildQwen2Moe(const ModelSource& source) {
  return BuildDecoder(source, source.is_gguf() ? ReadGguf(source) : ReadHf(source));
}

}  // namespace paritrace
