#include "diagnose/policy.h"

#include <array>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "diagnose/replay.h"
#include "graph/arithmetic_file.h"

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

// Sum of squares that an arithmetic leaves at a product.
double LeftAt(const Graph& graph, const Recording& recording, const Arithmetic& arithmetic, NodeId witness) {
  Replay replay(graph, recording, arithmetic, /*with_free=*/false);
  replay.Run({}, witness);
  const Value& predicted = replay.Predicted(witness);
  const RecordedSite& site = recording.At(witness);
  double left = 0;
  for (std::size_t i = 0; i < predicted.data.size(); ++i) {
    const double e =
        site.token_known[i / static_cast<std::size_t>(predicted.cols())] ? site.value.data[i] - predicted.data[i] : 0.0;
    left += std::isfinite(e) ? e * e : 0.0;
  }
  return left;
}

// The first product that was recorded; kAbsent if there is none.
NodeId FirstProduct(const Graph& graph, const Recording& recording) {
  for (const Node& node : graph.nodes) {
    if (std::holds_alternative<LinearOp>(node.op) && recording.Has(node.id)) return node.id;
  }
  return kAbsent;
}

// Activations rounded to a quantised weight's blocks before the product, as ggml does it: f32 leaves far more of the error.
bool RoundsToBlocks(const Graph& graph, const Recording& recording) {
  const NodeId witness = FirstProduct(graph, recording);
  if (witness == kAbsent) return false;
  const Node& node = graph.nodes[static_cast<std::size_t>(witness)];
  if (!IsBlockQuantised(graph.weights[static_cast<std::size_t>(node.weight)].tensor.dtype)) return false;
  constexpr double kDecisive = 0.01;
  return LeftAt(graph, recording, *FindArithmetic("ggml-cpu"), witness) <
         kDecisive * LeftAt(graph, recording, *FindArithmetic("f32"), witness);
}

}  // namespace

ChosenArithmetic ChooseArithmetic(const std::string& asked, const Trace& trace, const Recording& recording,
                                  const Graph& graph) {
  ChosenArithmetic chosen;
  if (!asked.empty()) {
    chosen.arithmetic = ArithmeticOf(asked, "--arithmetic");
  } else if (const auto stated = FindArithmetic(trace.header.arithmetic)) {
    chosen.arithmetic = *stated;
  } else {
    chosen.inferred = true;
    chosen.arithmetic = *FindArithmetic(NameFromValues(trace, recording));
    if (chosen.arithmetic.name == "f32" && RoundsToBlocks(graph, recording))
      chosen.arithmetic = *FindArithmetic("ggml-cpu");
    if (!trace.header.arithmetic.empty()) {
      chosen.remark =
          fmt::format("the trace names an arithmetic that is not known here, \"{}\": {} was inferred from the values",
                      trace.header.arithmetic, chosen.arithmetic.name);
    }
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
  const NodeId witness = FirstProduct(graph, recording);
  if (witness == kAbsent) return;
  double least = std::numeric_limits<double>::infinity();
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    Arithmetic candidate = arithmetic;
    candidate.dot_weight = type;
    const double left = LeftAt(graph, recording, candidate, witness);
    if (left < least) {
      least = left;
      arithmetic.dot_weight = type;
    }
  }
}

}  // namespace paritrace
