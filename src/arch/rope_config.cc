// RoPE scaling as model configs state it, reduced to frequency factors, a position scale and a magnitude.
#include <algorithm>
#include <cmath>
#include <numbers>

#include <fmt/format.h>

#include "arch/decoder.h"
#include "core/decode.h"
#include "core/error.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

double NumberOf(const ModelSource& source, const Json& table, std::string_view key, double fallback) {
  const auto found = table.find(key);
  if (found == table.end() || found->is_null()) return fallback;
  if (!found->is_number()) source.Refuse(fmt::format("rope {}", key), "a number", found->dump());
  return found->get<double>();
}

double FrequencyOf(const RopeOp& rope, std::int64_t pair) {
  return std::pow(rope.theta, -2.0 * static_cast<double>(pair) / static_cast<double>(rope.exponent_dim));
}

// transformers' _compute_llama3_parameters: long waves are slowed by `factor`, short ones kept, a ramp between.
std::vector<double> Llama3Factors(const ModelSource& source, const RopeOp& rope, const Json& table) {
  const double factor = NumberOf(source, table, "factor", 8), low = NumberOf(source, table, "low_freq_factor", 1);
  const double high = NumberOf(source, table, "high_freq_factor", 4);
  const double context = NumberOf(source, table, "original_max_position_embeddings", 8192);
  std::vector<double> factors;
  for (std::int64_t i = 0; i < rope.rotary_dim / 2; ++i) {
    const double wavelength = 2 * std::numbers::pi / FrequencyOf(rope, i);
    if (wavelength < context / high) {
      factors.push_back(1);
    } else if (wavelength > context / low) {
      factors.push_back(factor);
    } else {
      const double smooth = (context / wavelength - low) / (high - low);
      factors.push_back(1 / ((1 - smooth) / factor + smooth));
    }
  }
  return factors;
}

// transformers' _compute_yarn_parameters (arXiv:2309.00071, section 3.2).
void ApplyYarn(const ModelSource& source, RopeOp& rope, const Json& table) {
  const double factor = NumberOf(source, table, "factor", 1);
  const double context =
      NumberOf(source, table, "original_max_position_embeddings", source.Number("max_position_embeddings", 2048));
  const double fast = NumberOf(source, table, "beta_fast", 32), slow = NumberOf(source, table, "beta_slow", 1);
  const auto pairs = static_cast<double>(rope.rotary_dim) / 2;
  const auto pair_of = [&](double turns) {
    return static_cast<double>(rope.exponent_dim) * std::log(context / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(rope.theta));
  };
  double low = pair_of(fast), high = pair_of(slow);
  const auto truncate = table.find("truncate");
  if (truncate == table.end() || !truncate->is_boolean() || truncate->get<bool>()) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(rope.exponent_dim) - 1);
  if (low == high) high += 0.001;
  rope.frequency_factors.clear();
  for (double i = 0; i < pairs; ++i) {
    const double ramp = std::clamp((i - low) / (high - low), 0.0, 1.0);
    rope.frequency_factors.push_back(1 / (ramp / factor + (1 - ramp)));
  }
  const auto magnitude = [](double scale, double mscale) {
    return scale <= 1 ? 1.0 : 0.1 * mscale * std::log(scale) + 1;
  };
  const double mscale = NumberOf(source, table, "mscale", 0), mscale_all = NumberOf(source, table, "mscale_all_dim", 0);
  const double inferred =
      mscale != 0 && mscale_all != 0 ? magnitude(factor, mscale) / magnitude(factor, mscale_all) : magnitude(factor, 1);
  rope.magnitude = NumberOf(source, table, "attention_factor", inferred);
}

}  // namespace

RopeOp ReadHfRope(const ModelSource& source, std::int64_t head_dim, double default_theta) {
  // transformers 5 keeps everything under rope_parameters; before it, rope_theta stood alone beside rope_scaling.
  const Json& parameters = source.At("rope_parameters");
  const Json& scaling = parameters.is_object() ? parameters : source.At("rope_scaling");
  static const Json kEmpty = Json::object();
  const Json& table = scaling.is_object() ? scaling : kEmpty;
  RopeOp rope{.head_dim = head_dim};
  const double partial = NumberOf(source, table, "partial_rotary_factor", source.Number("partial_rotary_factor", 1));
  rope.rotary_dim = static_cast<std::int64_t>(static_cast<double>(head_dim) * partial) / 2 * 2;
  rope.exponent_dim = rope.rotary_dim;
  rope.theta = NumberOf(source, table, "rope_theta", source.Number("rope_theta", default_theta));
  if (!(rope.theta > 0)) source.Refuse("rope_theta", "a number above 0", fmt::format("{}", rope.theta));
  std::string kind = "default";
  for (const char* key : {"type", "rope_type"}) {
    if (table.contains(key) && table[key].is_string()) kind = table[key].get<std::string>();
  }
  if (kind == "linear") {
    rope.position_scale = 1 / NumberOf(source, table, "factor", 1);
  } else if (kind == "llama3") {
    rope.frequency_factors = Llama3Factors(source, rope, table);
  } else if (kind == "yarn") {
    ApplyYarn(source, rope, table);
  } else if (kind != "default") {
    throw UsageError(fmt::format("{}: RoPE scaling of kind \"{}\" is not supported", source.config_file(), kind));
  }
  return rope;
}

RopeOp ReadGgufRope(const ModelSource& source, std::string_view prefix, std::int64_t head_dim) {
  const std::string key = std::string(prefix) + "rope.";
  RopeOp rope{.head_dim = head_dim};
  rope.rotary_dim = source.Integer(key + "dimension_count", head_dim);
  if (rope.rotary_dim > head_dim || rope.rotary_dim % 2 != 0) {
    source.Refuse(key + "dimension_count", fmt::format("an even number up to {}", head_dim),
                  std::to_string(rope.rotary_dim));
  }
  rope.exponent_dim = rope.rotary_dim;
  rope.theta = source.Number(key + "freq_base", 10000);
  const std::string kind = source.Text(key + "scaling.type", "none");
  if (kind == "linear") {
    rope.position_scale = 1 / source.Number(key + "scaling.factor", 1);
  } else if (kind != "none") {
    throw UsageError(fmt::format("{}: RoPE scaling of kind \"{}\" is not supported from GGUF", source.path(), kind));
  }
  if (const TensorView* factors = source.Find("rope_freqs.weight")) {
    rope.frequency_factors = DecodeAll(*factors);
    if (static_cast<std::int64_t>(rope.frequency_factors.size()) != rope.rotary_dim / 2) {
      throw FormatError(source.path(), "tensor \"rope_freqs.weight\"", fmt::format("[{}]", rope.rotary_dim / 2),
                        ToString(factors->shape));
    }
  }
  return rope;
}

}  // namespace paritrace
