// Qwen2 and Qwen2.5 (arXiv:2407.10671): Llama with biases on q, k and v. Half-split rotation in HF and in GGUF alike.
#include "arch/architectures.h"
#include "arch/decoder.h"

namespace paritrace {

Graph BuildQwen2(const ModelSource& source) {
  if (source.is_gguf()) return BuildDecoder(source, ReadGgufDecoder(source));
  DecoderPlan plan = ReadHfDecoder(source);
  plan.rope = ReadHfRope(source, plan.head_dim, 10000);
  if (source.Flag("use_sliding_window", false)) {
    const std::int64_t window = source.Integer("sliding_window"), first = source.Integer("max_window_layers", 28);
    for (int layer = 0; layer < plan.layers; ++layer) plan.windows.push_back(layer >= first ? window : 0);
  }
  return BuildDecoder(source, plan);
}

}  // namespace paritrace
