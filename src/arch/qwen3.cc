// Qwen3, dense (arXiv:2505.09388): Qwen2 without biases, with an RMSNorm over each head of q and k before the rotation.
#include "arch/architectures.h"
#include "arch/decoder.h"

namespace paritrace {

Graph BuildQwen3(const ModelSource& source) {
  DecoderPlan plan = source.is_gguf() ? ReadGgufDecoder(source) : ReadHfDecoder(source);
  if (!source.is_gguf()) {
    plan.rope = ReadHfRope(source, plan.head_dim, 10000);
    if (source.Flag("use_sliding_window", false)) {
      const std::int64_t window = source.Integer("sliding_window"), first = source.Integer("max_window_layers", 28);
      for (int layer = 0; layer < plan.layers; ++layer) plan.windows.push_back(layer >= first ? window : 0);
    }
  }
  plan.q_k_norms = true;
  return BuildDecoder(source, plan);
}

}  // namespace paritrace
