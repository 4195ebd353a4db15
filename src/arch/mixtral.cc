// Mixtral (arXiv:2401.04088): Mistral with a mixture of experts in every layer; the weights of the chosen are made to sum to one.
// llama.cpp keeps it under its architecture `llama`, with a number of experts.
#include <fmt/format.h>

#include "arch/architectures.h"
#include "arch/decoder.h"

namespace paritrace {

MixturePlan ReadGgufMixtral(const ModelSource& source, const DecoderPlan& plan) {
  const std::string prefix = source.architecture() + ".";
  MixturePlan mixture{.experts = source.Integer(prefix + "expert_count"),
                      .used = source.Integer(prefix + "expert_used_count"),
                      .hidden = plan.hidden,
                      .width = source.Integer(prefix + "expert_feed_forward_length", plan.intermediate),
                      .activation = plan.activation,
                      .normalised = true};
  CheckMixture(source, mixture, prefix + "expert_count", prefix + "expert_used_count");
  mixture.layers.assign(static_cast<std::size_t>(plan.layers), true);
  return mixture;
}

Graph BuildMixtral(const ModelSource& source) {
  DecoderPlan plan = ReadHfDecoder(source);
  plan.rope = ReadHfRope(source, plan.head_dim, 1e6);
  plan.windows.assign(static_cast<std::size_t>(plan.layers), source.Integer("sliding_window", 0));
  MixturePlan mixture{.experts = source.Integer("num_local_experts", 8),
                      .used = source.Integer("num_experts_per_tok", 2),
                      .hidden = plan.hidden,
                      .width = plan.intermediate,
                      .activation = plan.activation,
                      .normalised = true,
                      .wide_weights = true};
  CheckMixture(source, mixture, "num_local_experts", "num_experts_per_tok");
  mixture.layers.assign(static_cast<std::size_t>(plan.layers), true);
  plan.mixture = std::move(mixture);
  // Files have the names of Mistral's own code; transformers 5 renames them on loading.
  plan.name = [&source](std::string_view role, int layer) {
    std::string name = HfDecoderName(source, role, layer);
    if (role != "moe" && role != "moe.router_logits") return name;
    const std::string older = fmt::format("{}block_sparse_moe", name.substr(0, name.rfind("mlp")));
    if (source.Find(older + ".gate.weight") == nullptr) return name;
    return role == "moe" ? older : older + ".gate";
  };
  return BuildDecoder(source, plan);
}

}  // namespace paritrace
