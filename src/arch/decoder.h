// The pre-norm decoder that Llama and its relatives share. An architecture file reads its config into a DecoderPlan, with
// the names its weights go by; BuildDecoder lays out the nodes.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "arch/mixture.h"
#include "arch/model.h"
#include "graph/graph.h"

namespace paritrace {

// A projection of BitNet: its ternary codes, or the weights they are rounded from.
struct BitMatrix {
  TensorView tensor;
  BitLinear bits = BitLinear::kNone;
  double scale = 1;
};

struct DecoderPlan {
  std::string architecture;
  int layers = 0;
  std::int64_t hidden = 0, intermediate = 0, heads = 0, kv_heads = 0, head_dim = 0, vocabulary = 0;
  double norm_eps = 1e-5;
  NormWeight norm_weight = NormWeight::kTimes;
  RopeOp rope;  // heads is set per use
  bool q_rows_interleaved = false;
  double attention_scale = 1;
  bool scales_query = false;                        // the queries are multiplied by it, not the scores
  double attention_softcap = 0, logit_softcap = 0;  // 0: none
  std::vector<std::int64_t> windows;                // [layers]; empty or 0: full attention
  Activation activation = Activation::kSilu;
  double embed_scale = 1;
  bool tied_head = false;
  bool q_k_norms = false;     // RMSNorm over each head of q and k before RoPE
  bool output_norms = false;  // a norm after each sublayer, before its output is added to the stream
  bool inner_norms = false;   // a norm before the output projection and one before the down projection (BitNet)
  std::optional<MixturePlan> mixture;
  // How a projection is stored and computed where it is no plain matrix; nullopt for a plain one.
  std::function<std::optional<BitMatrix>(std::string_view role, int layer, const Shape& shape)> bit_matrix;
  // Weight names by role ("embed", "attn.q", "attn.norm", …) without ".weight"/".bias"; layer < 0 for the top ones.
  std::function<std::string(std::string_view role, int layer)> name;
};

[[nodiscard]] Graph BuildDecoder(const ModelSource& source, const DecoderPlan& plan);

// Reads `rope_theta`, `rope_scaling` and `rope_parameters` of an HF config (kinds default, linear, llama3, yarn; others
// are refused by name), with `rotary_dim` lanes of each head turned.
// Source of the formulas: transformers/modeling_rope_utils.py; YaRN arXiv:2309.00071.
[[nodiscard]] RopeOp ReadHfRope(const ModelSource& source, std::int64_t head_dim, double default_theta);

// The same from a GGUF's metadata (PREFIX.rope.*) and its rope_freqs.weight.
[[nodiscard]] RopeOp ReadGgufRope(const ModelSource& source, std::string_view prefix, std::int64_t head_dim);

// Weight names of HF's decoder modules, with or without the leading "model.".
[[nodiscard]] std::string HfDecoderName(const ModelSource& source, std::string_view role, int layer);
[[nodiscard]] std::string GgufDecoderName(std::string_view role, int layer);

// The activation that an HF config names. Errors: UsageError naming one that is not supported.
[[nodiscard]] Activation ReadHfActivation(const ModelSource& source, std::string_view key, std::string_view fallback);

// The mixture of a GGUF of Mixtral.
[[nodiscard]] MixturePlan ReadGgufMixtral(const ModelSource& source, const DecoderPlan& plan);

// Reads what all HF decoder configs share: sizes, eps, activation, tied head.
[[nodiscard]] DecoderPlan ReadHfDecoder(const ModelSource& source);
[[nodiscard]] DecoderPlan ReadGgufDecoder(const ModelSource& source);

}  // namespace paritrace
