// Gemma 2 (arXiv:2408.00118): norms on both sides of a sublayer with weight plus one, scores and logits capped by tanh, every
// other layer with a sliding window, embeddings times sqrt(hidden), the head tied to them.
// A GGUF holds the norm weights with the one added; llama.cpp scales the queries where HF scales the scores.
#include <cmath>

#include <fmt/format.h>

#include "arch/architectures.h"
#include "arch/decoder.h"
#include "core/error.h"

namespace paritrace {
namespace {

std::string HfName(const ModelSource& source, std::string_view role, int layer) {
  const std::string prefix = source.Find("embed_tokens.weight") != nullptr ? "" : "model.";
  if (role == "attn.output_norm") return fmt::format("{}layers.{}.post_attention_layernorm", prefix, layer);
  if (role == "mlp.norm") return fmt::format("{}layers.{}.pre_feedforward_layernorm", prefix, layer);
  if (role == "mlp.output_norm") return fmt::format("{}layers.{}.post_feedforward_layernorm", prefix, layer);
  return HfDecoderName(source, role, layer);
}

// The window of each layer: as layer_types says, else of the layers with an even index.
std::vector<std::int64_t> HfWindows(const ModelSource& source, int layers) {
  const std::int64_t window = source.Integer("sliding_window", 0);
  const auto& types = source.At("layer_types");
  std::vector<std::int64_t> windows;
  for (int layer = 0; layer < layers; ++layer) {
    bool slides = layer % 2 == 0;
    if (types.is_array()) {
      const auto at = static_cast<std::size_t>(layer);
      const std::string type = at < types.size() && types[at].is_string() ? types[at].get<std::string>() : "";
      if (type != "sliding_attention" && type != "full_attention") {
        source.Refuse(fmt::format("layer_types[{}]", layer), "sliding_attention or full_attention",
                      type.empty() ? "none" : type);
      }
      slides = type == "sliding_attention";
    }
    windows.push_back(slides ? window : 0);
  }
  return windows;
}

// The 27B model divides by hidden / heads where the others divide by the head's width; llama.cpp tells it by its layers.
constexpr int kLayersOf27B = 46;

DecoderPlan ReadGguf(const ModelSource& source) {
  DecoderPlan plan = ReadGgufDecoder(source);
  plan.activation = Activation::kGeluTanh;
  const std::int64_t divisor = plan.layers == kLayersOf27B ? plan.hidden / plan.heads : plan.head_dim;
  plan.attention_scale = 1.0 / std::sqrt(static_cast<double>(divisor));
  plan.scales_query = true;
  plan.attention_softcap = source.Number("gemma2.attn_logit_softcapping", 50);
  plan.logit_softcap = source.Number("gemma2.final_logit_softcapping", 30);
  const std::int64_t window = source.Integer("gemma2.attention.sliding_window", 0);
  for (int layer = 0; layer < plan.layers; ++layer) plan.windows.push_back(layer % 2 == 0 ? window : 0);
  return plan;
}

DecoderPlan ReadHf(const ModelSource& source) {
  DecoderPlan plan = ReadHfDecoder(source);
  if (source.Flag("use_bidirectional_attention", false)) {
    throw UsageError(fmt::format("{}: use_bidirectional_attention is not supported", source.config_file()));
  }
  plan.rope = ReadHfRope(source, plan.head_dim, 10000);
  plan.norm_weight = NormWeight::kPlusOne;
  plan.activation = ReadHfActivation(source, "hidden_activation", "gelu_pytorch_tanh");
  plan.attention_scale = 1.0 / std::sqrt(source.Number("query_pre_attn_scalar", 256));
  plan.attention_softcap = source.Number("attn_logit_softcapping", 0);
  plan.logit_softcap = source.Number("final_logit_softcapping", 0);
  plan.windows = HfWindows(source, plan.layers);
  plan.tied_head = source.Flag("tie_word_embeddings", true) || source.Find("lm_head.weight") == nullptr;
  plan.name = [&source](std::string_view role, int layer) { return HfName(source, role, layer); };
  return plan;
}

}  // namespace

Graph BuildGemma2(const ModelSource& source) {
  DecoderPlan plan = source.is_gguf() ? ReadGguf(source) : ReadHf(source);
  plan.embed_scale = std::sqrt(static_cast<double>(plan.hidden));
  plan.output_norms = true;
  return BuildDecoder(source, plan);
}

}  // namespace paritrace
