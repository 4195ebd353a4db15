#include "diagnose/policy.h"

#include <array>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "diagnose/replay.h"
#include "diagnose/site_stats.h"
#include "diagnose/verdict.h"
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
void ReadGgmlOptions(const Trace& trace, const Graph& graph, Arithmetic& arithmetic) {
  const Json& run = RunOf(trace);
  const auto flash = run.find("flash_attention");
  if (flash != run.end() && flash->is_boolean()) arithmetic.flash_attention = flash->get<bool>();
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

// The first product that was recorded; kAbsent if there is none.
NodeId FirstProduct(const Graph& graph, const Recording& recording) {
  for (const Node& node : graph.nodes) {
    if (std::holds_alternative<LinearOp>(node.op) && recording.Has(node.id)) return node.id;
  }
  return kAbsent;
}

// Recorded nodes from the first to the one behind the second attention: all that an engine does to a layer's values.
std::vector<NodeId> Witnesses(const Graph& graph, const Recording& recording) {
  std::vector<NodeId> witnesses;
  int attentions = 0;
  for (const Node& node : graph.nodes) {
    if (std::holds_alternative<ContextOp>(node.op)) ++attentions;
    if (!recording.Has(node.id) || node.pooled || std::holds_alternative<TopExpertsOp>(node.op)) continue;
    witnesses.push_back(node.id);
    if (attentions >= 2) break;
  }
  return witnesses;
}

std::vector<SiteStats> StatsAt(const Graph& graph, const Recording& recording, const Arithmetic& arithmetic,
                               const std::vector<NodeId>& witnesses) {
  Replay replay(graph, recording, arithmetic, /*with_free=*/false);
  replay.Run({}, witnesses.back());
  std::vector<SiteStats> stats;
  for (const NodeId id : witnesses) {
    const Node& node = graph.nodes[static_cast<std::size_t>(id)];
    stats.push_back(MeasureSite(graph, node, recording.At(id),
                                {replay.Exact(id), replay.Predicted(id), replay.Sampled(id)}, nullptr, arithmetic,
                                {0, recording.run.count()}));
  }
  return stats;
}

// More than the arithmetic of `stats` explains, of which another one takes nearly all away.
bool IsBetterExplained(const SiteStats& stats, const SiteStats& by_other) {
  constexpr double kLeft = 0.1;
  return !(stats.all.ratio() <= SizeLimit(stats.all.count)) && by_other.left < kLeft * stats.left;
}

// Several engines store f32 and round otherwise on the way: ggml rounds activations to the weight's type and keeps K and V in f16.
// Where that explains some site that f32 does not, and nowhere the reverse, the trace is one of its own.
Arithmetic AmongF32(const Graph& graph, const Recording& recording, const Arithmetic& plain) {
  const std::vector<NodeId> witnesses = Witnesses(graph, recording);
  if (witnesses.empty()) return plain;
  const std::vector<SiteStats> in_f32 = StatsAt(graph, recording, plain, witnesses);
  Arithmetic best = plain;
  double least = std::numeric_limits<double>::infinity();
  for (const char* name : {"ggml-cpu", "ggml-cpu+flash"}) {
    Arithmetic candidate = *FindArithmetic(name);
    candidate.name = "ggml-cpu";
    if (!graph.has_cache && !candidate.flash_attention) candidate.kv_cache = Rounding::kNone;
    const std::vector<SiteStats> here = StatsAt(graph, recording, candidate, witnesses);
    bool wins = false, loses = false;
    double shares = 0;
    for (std::size_t i = 0; i < here.size(); ++i) {
      wins |= IsBetterExplained(in_f32[i], here[i]);
      loses |= IsBetterExplained(here[i], in_f32[i]);
      shares += in_f32[i].left > 0 ? here[i].left / in_f32[i].left : 0.0;
    }
    if (wins && !loses && shares < least) {
      best = candidate;
      least = shares;
    }
  }
  return best;
}

}  // namespace

ChosenArithmetic ChooseArithmetic(const std::string& asked, const Trace& trace, const Recording& recording,
                                  const Graph& graph) {
  ChosenArithmetic chosen;
  bool shown_by_values = false;  // whether a flash kernel ran, too
  if (!asked.empty()) {
    chosen.arithmetic = ArithmeticOf(asked, "--arithmetic");
  } else if (const auto stated = FindArithmetic(trace.header.arithmetic)) {
    chosen.arithmetic = *stated;
  } else {
    chosen.inferred = true;
    chosen.arithmetic = *FindArithmetic(NameFromValues(trace, recording));
    if (chosen.arithmetic.name == "f32") {
      chosen.arithmetic = AmongF32(graph, recording, chosen.arithmetic);
      shown_by_values = chosen.arithmetic.name != "f32";
    }
    if (!trace.header.arithmetic.empty()) {
      chosen.remark =
          fmt::format("the trace names an arithmetic that is not known here, \"{}\": {} was inferred from the values",
                      trace.header.arithmetic, chosen.arithmetic.name);
    }
  }
  chosen.arithmetic.declared = !chosen.inferred;
  const auto experts = RunOf(trace).find("experts");
  if (experts != RunOf(trace).end() && *experts == "eager") chosen.arithmetic.mixture = Mixture::kByExpert;
  if (chosen.arithmetic.name == "ggml-cpu" || chosen.arithmetic.name == "bitnet-int8") {
    if (!shown_by_values) chosen.arithmetic.flash_attention = LooksFused(recording, graph);
    ReadGgmlOptions(trace, graph, chosen.arithmetic);
  }
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
    const double left = StatsAt(graph, recording, candidate, {witness})[0].left;
    if (left < least) {
      least = left;
      arithmetic.dot_weight = type;
    }
  }
}

}  // namespace paritrace
