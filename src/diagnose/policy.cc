#include "diagnose/policy.h"

#include <array>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "core/error.h"
#include "diagnose/replay.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

const Json& RunOf(const Trace& trace) {
  static const Json kNone = Json::object();
  const auto run = trace.header.raw.find("run");
  return run != trace.header.raw.end() && run->is_object() ? *run : kNone;
}

// Attention whose context was recorded without scores or probabilities: a flash kernel stores neither.
bool LooksFused(const Recording& recording, const Graph& graph) {
  bool context = false;
  for (const Node& node : graph.nodes) {
    if (!recording.Has(node.id)) continue;
    if (IsScoreShaped(node)) return false;
    context |= std::holds_alternative<ContextOp>(node.op);
  }
  return context;
}

// What llama.cpp was asked for at run time is in the header; it decides two fields of the policy.
void ReadGgmlOptions(const Trace& trace, const Recording& recording, const Graph& graph, Arithmetic& arithmetic) {
  const Json& run = RunOf(trace);
  const auto flash = run.find("flash_attention");
  arithmetic.flash_attention =
      flash != run.end() && flash->is_boolean() ? flash->get<bool>() : LooksFused(recording, graph);
  if (!graph.has_cache && !arithmetic.flash_attention)
    arithmetic.kv_cache = Rounding::kNone;  // a flash kernel copies K and V to f16
  const auto cache = run.find("kv_type");
  if (cache == run.end() || !graph.has_cache) return;
  const Json& k = cache->is_object() && cache->contains("k") ? (*cache)["k"] : *cache;
  if (!k.is_string()) return;
  const std::string type = k.get<std::string>();
  if (type == "f32" || type == "F32") arithmetic.kv_cache = Rounding::kNone;
  if (type == "bf16" || type == "BF16") arithmetic.kv_cache = Rounding::kBF16;
}

std::string NameFromValues(const Trace& trace, const Recording& recording) {
  const std::string& engine = trace.header.engine_name;
  if (engine == "bitnet.cpp" || engine == "bitnet-cpp" || engine == "bitnet_cpp") return "bitnet-int8";
  if (engine.find("llama") != std::string::npos || engine.find("ggml") != std::string::npos) return "ggml-cpu";
  const bool jax = engine == "jax" || engine == "flax";
  switch (recording.grid) {
    case Rounding::kBF16: return jax ? "jax-bf16" : "torch-bf16";
    case Rounding::kF16: return "torch-f16";
    case Rounding::kF32: return jax ? "jax-f32" : "f32";
    default: break;
  }
  return "f64";
}

}  // namespace

ChosenArithmetic ChooseArithmetic(const std::string& asked, const Trace& trace, const Recording& recording,
                                  const Graph& graph) {
  ChosenArithmetic chosen;
  if (!asked.empty()) {
    const auto known = FindArithmetic(asked);
    if (!known) throw UsageError(fmt::format("--arithmetic {}: expected one of {}", asked, ArithmeticNames()));
    chosen.arithmetic = *known;
  } else if (const auto stated = FindArithmetic(trace.header.arithmetic)) {
    chosen.arithmetic = *stated;
  } else {
    chosen.inferred = true;
    chosen.arithmetic = *FindArithmetic(NameFromValues(trace, recording));
  }
  chosen.arithmetic.declared = !chosen.inferred;
  const auto experts = RunOf(trace).find("experts");
  if (experts != RunOf(trace).end() && *experts == "eager") chosen.arithmetic.mixture = Mixture::kByExpert;
  if (chosen.arithmetic.name == "ggml-cpu" || chosen.arithmetic.name == "bitnet-int8")
    ReadGgmlOptions(trace, recording, graph, chosen.arithmetic);
  return chosen;
}

void ChooseDotWeight(const Graph& graph, const Recording& recording, Arithmetic& arithmetic) {
  if (arithmetic.dot_input != DotInput::kGgml) return;
  const Node* witness = nullptr;
  for (const Node& node : graph.nodes) {
    if (witness == nullptr && std::holds_alternative<LinearOp>(node.op) && recording.Has(node.id)) witness = &node;
  }
  if (witness == nullptr) return;
  const RecordedSite& site = recording.At(witness->id);
  double least = std::numeric_limits<double>::infinity();
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    Arithmetic candidate = arithmetic;
    candidate.dot_weight = type;
    Replay replay(graph, recording, candidate);
    replay.Run({}, witness->id);
    const Value& predicted = replay.Predicted(witness->id);
    double left = 0;
    for (std::size_t i = 0; i < predicted.data.size(); ++i) {
      const double e = site.token_known[i / static_cast<std::size_t>(predicted.cols())]
                           ? site.value.data[i] - predicted.data[i]
                           : 0.0;
      left += std::isfinite(e) ? e * e : 0.0;
    }
    if (left < least) {
      least = left;
      arithmetic.dot_weight = type;
    }
  }
}

}  // namespace paritrace
