// The post-norm encoder that BERT and its relatives share: every token sees every other, and a LayerNorm follows each sum.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "arch/binder.h"
#include "arch/mixture.h"

namespace paritrace {

struct EncoderPlan {
  std::string architecture;
  int layers = 0;
  std::int64_t hidden = 0, intermediate = 0, heads = 0, vocabulary = 0;
  std::int64_t positions = 0;  // rows of the table of learned positions; 0: none
  std::int64_t types = 0;      // rows of the table of token types; 0: none
  double norm_eps = 1e-12;
  std::optional<RopeOp> rope;  // heads is set per use
  bool fused_qkv = false;      // one matrix for q, k and v, one above the other
  Activation activation = Activation::kGeluErf;
  std::optional<MixturePlan> mixture;
  Binder::Namer name;
};

[[nodiscard]] Graph BuildEncoder(const ModelSource& source, const EncoderPlan& plan);

// Sizes that an encoder's GGUF states under "ARCHITECTURE.". Errors: FormatError naming the key.
[[nodiscard]] EncoderPlan ReadGgufEncoder(const ModelSource& source);
// Errors: FormatError naming the config's key where the numbers do not make an encoder.
void CheckEncoder(const ModelSource& source, const EncoderPlan& plan, std::string_view layers_key,
                  std::string_view heads_key);

[[nodiscard]] std::string GgufEncoderName(std::string_view role, int layer);

}  // namespace paritrace
