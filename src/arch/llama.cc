// Llama 1 to 3 and Mistral (arXiv:2302.13971): RMSNorm, RoPE, grouped-query attention, gated SiLU.
// HF keeps q and k rows in half-split order; a GGUF of llama.cpp's `llama` architecture in interleaved order, with the
// rotation to match.
#include "arch/architectures.h"
#include "arch/decoder.h"

namespace paritrace {

Graph BuildLlama(const ModelSource& source) {
  if (source.is_gguf()) {
    DecoderPlan plan = ReadGgufDecoder(source);
    plan.rope.pairing = RopePairing::kInterleaved;
    plan.q_rows_interleaved = true;
    if (source.Integer("llama.expert_count", 0) > 0) plan.mixture = ReadGgufMixtral(source, plan);
    return BuildDecoder(source, plan);
  }
  DecoderPlan plan = ReadHfDecoder(source);
  plan.rope = ReadHfRope(source, plan.head_dim, 10000);
  if (source.architecture() == "mistral") {
    plan.windows.assign(static_cast<std::size_t>(plan.layers), source.Integer("sliding_window", 0));
  }
  return BuildDecoder(source, plan);
}

}  // namespace paritrace
