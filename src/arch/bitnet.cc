// BitNet b1.58 (arXiv:2402.17764): Llama with ternary projections, a norm before the output and the down projection, squared ReLU.
// HF stores the codes packed with a scale, or float weights that are rounded as they are used, or plain ones; a GGUF of
// llama.cpp holds the values (in TQ1_0, TQ2_0 or a float type), and llama.cpp computes SiLU.
#include <fmt/format.h>

#include "arch/architectures.h"
#include "arch/decoder.h"
#include "core/decode.h"
#include "core/error.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

// What quantization_config says of the linear layers.
struct Quantised {
  bool any = false, online = false, values = false;
};

Quantised ReadQuantised(const ModelSource& source) {
  const Json& config = source.At("quantization_config");
  if (!config.is_object()) return {};
  const auto text = [&](const char* key, const char* fallback) {
    const auto found = config.find(key);
    return found != config.end() && found->is_string() ? found->get<std::string>() : std::string(fallback);
  };
  if (const std::string method = text("quant_method", "bitnet"); method != "bitnet") {
    throw UsageError(
        fmt::format("{}: quantization_config: method \"{}\" is not supported", source.config_file(), method));
  }
  const auto norm = config.find("use_rms_norm");
  if (norm != config.end() && *norm == true) {
    throw UsageError(fmt::format("{}: quantization_config: use_rms_norm is not supported", source.config_file()));
  }
  const std::string kind = text("linear_class", "bitlinear"), mode = text("quantization_mode", "offline");
  if (kind != "bitlinear" && kind != "autobitlinear") {
    throw UsageError(
        fmt::format("{}: quantization_config: linear_class \"{}\" is not supported", source.config_file(), kind));
  }
  return {.any = true, .online = kind == "autobitlinear" && mode == "online", .values = kind == "autobitlinear"};
}

std::optional<BitMatrix> ReadBitMatrix(const ModelSource& source, const Quantised& quantised, const std::string& name,
                                       const Shape& shape) {
  const TensorView* weight = source.Find(name + ".weight");
  if (!quantised.any || weight == nullptr) return std::nullopt;
  BitMatrix matrix{.tensor = *weight,
                   .bits = quantised.online   ? BitLinear::kOnline
                           : quantised.values ? BitLinear::kValues
                                              : BitLinear::kCodes};
  if (weight->dtype == DType::kU8) {
    if (shape[0] % 4 != 0 || weight->shape != Shape{shape[0] / 4, shape[1]}) {
      throw FormatError(source.path(), fmt::format("tensor \"{}\"", weight->name),
                        fmt::format("[{}, {}] of packed rows", shape[0] / 4, shape[1]), ToString(weight->shape));
    }
    matrix.tensor.dtype = DType::kTernaryRows;
    matrix.tensor.shape = shape;
  } else if (weight->shape != shape) {
    throw FormatError(source.path(), fmt::format("tensor \"{}\"", weight->name),
                      fmt::format("{} as the config says", ToString(shape)), ToString(weight->shape));
  }
  if (quantised.online) return matrix;
  if (const TensorView* scale = source.Find(name + ".weight_scale"); scale != nullptr && scale->size() == 1) {
    matrix.scale = DecodeAll(*scale)[0];
  }
  return matrix;
}

}  // namespace

Graph BuildBitNet(const ModelSource& source) {
  DecoderPlan plan = source.is_gguf() ? ReadGgufDecoder(source) : ReadHfDecoder(source);
  plan.inner_norms = true;
  if (source.is_gguf()) {
    // llama.cpp's graph of `bitnet` has no other head, and computes SiLU; bitnet.cpp's two names are of squared ReLU.
    plan.tied_head = source.architecture() == "bitnet" || plan.tied_head;
    if (source.architecture() != "bitnet") plan.activation = Activation::kReluSquared;
    if (const TensorView* scale = source.Find("blk.0.attn_q.scale")) {
      throw UsageError(
          fmt::format("{}: tensor \"{}\": scales beside the weights are not supported", source.path(), scale->name));
    }
    return BuildDecoder(source, plan);
  }
  plan.rope = ReadHfRope(source, plan.head_dim, 500000);
  plan.activation = ReadHfActivation(source, "hidden_act", "relu2");
  const Quantised quantised = ReadQuantised(source);
  plan.bit_matrix = [&source, quantised, name = plan.name](std::string_view role, int layer, const Shape& shape) {
    return ReadBitMatrix(source, quantised, name(role, layer), shape);
  };
  return BuildDecoder(source, plan);
}

}  // namespace paritrace
