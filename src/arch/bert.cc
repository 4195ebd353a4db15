// BERT (arXiv:1810.04805) as an encoder: tokens, types and learned positions summed and normalised, then post-norm layers.
// Single texts: the type of every token is 0.
#include <fmt/format.h>

#include "arch/architectures.h"
#include "arch/decoder.h"
#include "arch/encoder.h"
#include "core/error.h"

namespace paritrace {
namespace {

std::string HfName(const std::string& prefix, std::string_view role, int layer) {
  static const std::unordered_map<std::string_view, std::string_view> kNames = {
      {"embed", "embeddings.word_embeddings"},
      {"embed.types", "embeddings.token_type_embeddings"},
      {"embed.positions", "embeddings.position_embeddings"},
      {"embed.norm", "embeddings.LayerNorm"},
      {"attn.q", "attention.self.query"},
      {"attn.k", "attention.self.key"},
      {"attn.v", "attention.self.value"},
      {"attn.out", "attention.output.dense"},
      {"attn.post_norm", "attention.output.LayerNorm"},
      {"mlp.up", "intermediate.dense"},
      {"mlp.out", "output.dense"},
      {"out.norm", "output.LayerNorm"}};
  return layer == kAbsent ? fmt::format("{}{}", prefix, kNames.at(role))
                          : fmt::format("{}encoder.layer.{}.{}", prefix, layer, kNames.at(role));
}

EncoderPlan ReadHf(const ModelSource& source) {
  EncoderPlan plan{.architecture = source.architecture()};
  plan.layers = static_cast<int>(source.Integer("num_hidden_layers"));
  plan.hidden = source.Integer("hidden_size");
  plan.intermediate = source.Integer("intermediate_size");
  plan.heads = source.Integer("num_attention_heads");
  plan.vocabulary = source.Integer("vocab_size");
  plan.positions = source.Integer("max_position_embeddings");
  plan.types = source.Integer("type_vocab_size", 2);
  plan.norm_eps = source.Number("layer_norm_eps", 1e-12);
  CheckEncoder(source, plan, "num_hidden_layers", "num_attention_heads");
  for (const char* option : {"is_decoder", "add_cross_attention"}) {
    if (source.Flag(option, false))
      throw UsageError(fmt::format("{}: {} is not supported", source.config_file(), option));
  }
  if (const std::string kind = source.Text("position_embedding_type", "absolute"); kind != "absolute") {
    throw UsageError(fmt::format("{}: position_embedding_type \"{}\" is not supported", source.config_file(), kind));
  }
  plan.activation = ReadHfActivation(source, "hidden_act", "gelu");
  // A folder saved with a head on top has the encoder under its own name.
  const std::string prefix = source.Find("embeddings.word_embeddings.weight") != nullptr ? "" : "bert.";
  plan.name = [prefix](std::string_view role, int layer) { return HfName(prefix, role, layer); };
  return plan;
}

}  // namespace

Graph BuildBert(const ModelSource& source) {
  if (!source.is_gguf()) return BuildEncoder(source, ReadHf(source));
  EncoderPlan plan = ReadGgufEncoder(source);
  const TensorView* positions = source.Find("position_embd.weight");
  if (positions == nullptr || positions->shape.size() != 2)
    throw FormatError(source.path(), "tensor \"position_embd.weight\"", "a matrix", "none");
  plan.positions = positions->shape[0];
  return BuildEncoder(source, plan);
}

}  // namespace paritrace
