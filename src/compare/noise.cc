#include "compare/noise.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <vector>

#include "core/decode.h"

namespace paritrace {
namespace {

constexpr double kF64 = 0x1p-53, kF32 = 0x1p-24, kF16 = 0x1p-11, kBF16 = 0x1p-8;

// ggml rounds the activations that meet a quantised weight to 127 steps of the largest of 32 values. That largest is
// about 2.1 times the rms of 32 normal values (expected maximum of |x|), and half a step of it:
constexpr double kQ8Block = 2.1 / 127 / 2;
// bitnet: the same 127 steps of the largest of a whole token, about 3.5 times its rms for some thousand normal values.
constexpr double kInt8Token = 3.5 / 127 / 2;

// What ggml's CPU backend rounds to follows from the weights' types and the KV cache's, which its capture writes down.
// Where it did not, f16 is assumed: the default of the cache.
double GgmlStorage(const TraceHeader& header) {
  const auto run = header.raw.is_object() ? header.raw.find("run") : header.raw.end();
  if (!header.raw.is_object() || run == header.raw.end() || !run->is_object()) return kF16;
  double storage = kF32;
  const auto meets = [&](const nlohmann::ordered_json& type) {
    if (!type.is_string()) return;
    const auto dtype = ParseDType(type.get<std::string>());
    if (!dtype) return;
    const double unit = IsBlockQuantised(*dtype) ? kQ8Block
                        : *dtype == DType::kBF16 ? kBF16
                        : *dtype == DType::kF16  ? kF16
                                                 : kF32;
    storage = std::max(storage, unit);
  };
  for (const char* key : {"weight_types", "kv_type"}) {
    const auto types = run->find(key);
    if (types == run->end()) return std::max(storage, kF16);
    for (const auto& type : *types) meets(type);
  }
  // Flash attention keeps its running sum of V in f16 whatever the cache is.
  const auto flash = run->find("flash_attention");
  if (flash == run->end() || !flash->is_boolean() || flash->get<bool>()) storage = std::max(storage, kF16);
  return storage;
}

std::optional<EngineRounding> FromName(const TraceHeader& header) {
  const std::string& name = header.arithmetic;
  const auto known = [&](double storage, double sums) { return EngineRounding{name, storage, sums, false}; };
  if (name == "f64") return known(kF64, kF64);
  if (name == "f32" || name == "torch-f32" || name == "jax-f32" || name == "ort-f32") return known(kF32, kF32);
  if (name == "torch-bf16" || name == "jax-bf16") return known(kBF16, kF32);
  if (name == "torch-f16") return known(kF16, kF32);
  if (name == "ggml-cpu") return known(GgmlStorage(header), kF32);
  if (name == "bitnet-int8") return known(kInt8Token, kF32);
  return std::nullopt;
}

struct Grids {
  bool f32 = true, f16 = true, bf16 = true;
  int nonzero = 0;
};

Grids GridsOf(const TensorView& tensor) {
  constexpr std::int64_t kSample = 4096;
  std::array<double, kSample> values;
  const std::int64_t count = std::min(kSample, tensor.size());
  DecodeF64(tensor, 0, count, values.data());
  Grids grids;
  for (std::int64_t i = 0; i < count; ++i) {
    const double value = values[static_cast<std::size_t>(i)];
    if (value == 0 || !std::isfinite(value)) continue;
    ++grids.nonzero;
    const auto narrow = static_cast<float>(value);
    grids.f32 = grids.f32 && narrow == value;
    grids.f16 = grids.f16 && HalfToFloat(FloatToHalf(narrow)) == value;
    grids.bf16 = grids.bf16 && BFloatToFloat(FloatToBFloat(narrow)) == value;
  }
  return grids;
}

// Where a trace has no values (digests, other programs' dumps), the type that most of its tensors are said to have.
EngineRounding FromTypes(const Trace& trace) {
  std::size_t floats = 0, f64 = 0, f16 = 0, bf16 = 0;
  for (const TraceEntry& entry : trace.entries) {
    floats += Info(entry.tensor.dtype).is_float ? 1 : 0;
    f64 += entry.tensor.dtype == DType::kF64 ? 1 : 0;
    f16 += entry.tensor.dtype == DType::kF16 ? 1 : 0;
    bf16 += entry.tensor.dtype == DType::kBF16 ? 1 : 0;
  }
  if (2 * bf16 > floats) return {"bf16", kBF16, kF32, true};
  if (2 * f16 > floats) return {"f16", kF16, kF32, true};
  if (2 * f64 > floats) return {"f64", kF64, kF64, true};
  return {"f32", kF32, kF32, true};
}

}  // namespace

EngineRounding RoundingOf(const Trace& trace) {
  if (const auto named = FromName(trace.header)) return *named;
  // Some tensors lie on a coarser grid than the arithmetic by themselves (an embedding whose weights were published in
  // bf16), some on a finer one (logits taken in f32): most of them decide.
  constexpr std::size_t kLooked = 96;
  std::size_t seen = 0, f32 = 0, f16 = 0, bf16 = 0;
  const std::size_t stride = trace.entries.size() / kLooked + 1;
  for (std::size_t i = 0; i < trace.entries.size(); i += stride) {
    const TraceEntry& entry = trace.entries[i];
    if (!entry.has_data() || !Info(entry.tensor.dtype).is_float || IsBlockQuantised(entry.tensor.dtype)) continue;
    const Grids grids = GridsOf(entry.tensor);
    if (grids.nonzero < 8) continue;
    ++seen;
    f32 += grids.f32;
    f16 += grids.f16;
    bf16 += grids.bf16;
  }
  if (seen == 0) return FromTypes(trace);
  if (2 * bf16 > seen) return {"bf16", kBF16, kF32, true};
  if (2 * f16 > seen) return {"f16", kF16, kF32, true};
  if (2 * f32 > seen) return {"f32", kF32, kF32, true};
  return {"f64", kF64, kF64, true};
}

std::int64_t StoredBefore(std::string_view site, std::int64_t layers, std::int64_t otherwise) {
  constexpr std::int64_t kFirst = 2, kLayer = 17;
  struct Place {
    std::string_view site;
    std::int64_t stored;
  };
  static constexpr Place kInLayer[] = {
      {"in", 0},
      {"attn.norm", 1},
      {"attn.q", 2},
      {"attn.k", 3},
      {"attn.v", 4},
      {"attn.q_norm", 5},
      {"attn.k_norm", 6},
      {"attn.q_rope", 5},
      {"attn.k_rope", 6},
      {"attn.scores", 7},
      {"attn.probs", 8},
      {"attn.ctx", 9},
      {"attn.ctx_norm", 10},
      {"attn.out", 10},
      {"attn.post_norm", 11},
      {"attn.residual", 11},
      {"mlp.norm", 12},
      {"mlp.gate", 13},
      {"mlp.up", 14},
      {"mlp.act", 15},
      {"mlp.act_norm", 16},
      {"mlp.out", 16},
      {"mlp.residual", 17},
      {"out", 17},
      {"moe.router_logits", 13},
      {"moe.probs", 14},
      {"moe.experts", 14},
      {"moe.weights", 14},
      {"moe.out", 16},
  };
  if (site == "embed") return 1;
  if (site == "embed.norm") return kFirst;
  if (site == "final_norm") return kFirst + kLayer * layers + 1;
  if (site == "logits" || site == "pooled") return kFirst + kLayer * layers + 2;
  constexpr std::string_view kPrefix = "layers.";
  if (!site.starts_with(kPrefix)) return otherwise;
  const char* begin = site.data() + kPrefix.size();
  const char* end = site.data() + site.size();
  std::int64_t layer = 0;
  const auto [after, error] = std::from_chars(begin, end, layer);
  if (error != std::errc() || after == end || *after != '.') return otherwise;
  const std::string_view rest(after + 1, static_cast<std::size_t>(end - after - 1));
  for (const Place& place : kInLayer) {
    if (place.site == rest) return kFirst + kLayer * layer + place.stored;
  }
  return otherwise;
}

NoiseModel::NoiseModel(EngineRounding reference, EngineRounding subject, std::int64_t width)
    : reference_(std::move(reference)), subject_(std::move(subject)), variance_per_tensor_(0) {
  for (const EngineRounding& side : {reference_, subject_}) {
    variance_per_tensor_ += side.storage * side.storage + static_cast<double>(width) * side.sums * side.sums;
  }
}

double NoiseModel::Relative(std::int64_t stored, std::int64_t judgements) const {
  const auto asked = static_cast<double>(std::max<std::int64_t>(judgements, 1));
  const double lambda = std::sqrt(2 * std::log(2 * asked / kFalseAlarm));
  return lambda * std::sqrt(static_cast<double>(stored) * variance_per_tensor_);
}

}  // namespace paritrace
