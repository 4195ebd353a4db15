// Mistakes in quantising what goes into a product: activations rounded more coarsely than the engine's arithmetic says, and
// keys or values that lack the scale of a quantised cache.
#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>

#include <fmt/format.h>

#include "diagnose/row_sample.h"
#include "graph/kernel_fault.h"
#include "graph/product_input.h"

namespace paritrace {
namespace {

// A rounding is worth a replay if it takes away a part of the error on the sampled rows.
constexpr double kWorthReplaying = 0.8;

double Largest(std::span<const double> values) {
  double largest = 0;
  for (const double x : values) largest = std::max(largest, std::fabs(x));
  return largest;
}

// Whole numbers up to `levels` times a scale; scale 0: that of the values themselves.
void RoundToLevels(std::span<double> values, double levels, double scale = 0) {
  if (scale == 0) scale = Largest(values) / levels;
  if (scale == 0) return;
  for (double& x : values) x = std::clamp(std::nearbyint(x / scale), -levels, levels) * scale;
}

// f8 e4m3 times a scale.
void RoundAllToE4M3(std::span<double> values, double scale) {
  if (scale == 0) return;
  for (double& x : values) x = RoundToE4M3(x / scale) * scale;
}

void ByRow(Value& x, const std::function<void(std::span<double>)>& round) {
  for (std::int64_t t = 0; t < x.rows(); ++t) round(x.row(t));
}

void ByBlock(Value& x, std::size_t size, const std::function<void(std::span<double>)>& round) {
  ByRow(x, [&](std::span<double> row) {
    for (std::size_t start = 0; start < row.size(); start += size)
      round(row.subspan(start, std::min(size, row.size() - start)));
  });
}

struct Coarser {
  const char* name;
  std::function<void(Value&)> round;
};

std::vector<Coarser> CoarserRoundings() {
  const auto int8 = [](std::span<double> values) { RoundToLevels(values, 127); };
  const auto int4 = [](std::span<double> values) { RoundToLevels(values, 7); };
  const auto e4m3 = [](std::span<double> values) { RoundAllToE4M3(values, Largest(values) / 448); };
  return {
      {"int8, one scale a token", [int8](Value& x) { ByRow(x, int8); }},
      {"int8, one scale for all tokens", [int8](Value& x) { int8(x.data); }},
      {"int8, one scale a block of 256", [int8](Value& x) { ByBlock(x, 256, int8); }},
      {"int8, one scale a block of 128", [int8](Value& x) { ByBlock(x, 128, int8); }},
      {"int8, one scale a block of 64", [int8](Value& x) { ByBlock(x, 64, int8); }},
      {"int8, one scale a block of 32", [int8](Value& x) { ByBlock(x, 32, int8); }},
      {"int4, one scale a token", [int4](Value& x) { ByRow(x, int4); }},
      {"int4, one scale a block of 32", [int4](Value& x) { ByBlock(x, 32, int4); }},
      {"f8 e4m3, one scale a token", [e4m3](Value& x) { ByRow(x, e4m3); }},
      {"f8 e4m3, one scale for all tokens", [e4m3](Value& x) { e4m3(x.data); }},
      {"f8 e4m3, one scale a block of 128", [e4m3](Value& x) { ByBlock(x, 128, e4m3); }},
      {"f8 e4m3 without a scale", [](Value& x) { RoundAllToE4M3(x.data, 1); }},
  };
}

std::string DeclaredRounding(const Arithmetic& arithmetic, DType weight) {
  if (arithmetic.dot_input == DotInput::kAsStored) return "as stored";
  const DType type = arithmetic.dot_weight.value_or(weight);
  const bool ternary = type == DType::kI2_S || type == DType::kTQ1_0 || type == DType::kTQ2_0;
  if (ternary && arithmetic.dot_input == DotInput::kBitNet) return "int8, one scale a token";
  if (!IsBlockQuantised(type)) return std::string(Name(type));
  return Info(type).block_elements == 256 ? "int8, one scale a block of 256" : "int8, one scale a block of 32";
}

void ProposeActivations(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const DType type = site.graph().weights[static_cast<std::size_t>(node.weight)].tensor.dtype;
  const std::string declared = DeclaredRounding(site.replay().arithmetic(), type);
  std::optional<RowSample> sample;
  Value right;
  if (node.id == site.target().id) {
    sample.emplace(site, node);
    right = site.replay().Input(node.inputs[0]);
    const Arithmetic& arithmetic = site.replay().arithmetic();
    for (std::int64_t t = 0; t < right.rows(); ++t)
      RoundProductInput(arithmetic, arithmetic.dot_weight.value_or(type), right.row(t));
  }
  for (const Coarser& coarser : CoarserRoundings()) {
    if (declared == coarser.name) continue;
    if (sample) {
      Value coarse = site.replay().Input(node.inputs[0]);
      coarser.round(coarse);
      if (!(sample->WithInputs(coarse, right).left < kWorthReplaying)) continue;
    }
    auto fault = std::make_shared<KernelFault>();
    fault->replaces_input_rounding = true;
    fault->input = [round = coarser.round](std::vector<Value>& inputs) { round(inputs[0]); };
    Node changed = node;
    changed.fault = std::move(fault);
    out.push_back({.cause = "quant.activation",
                   .edit = site.With(changed),
                   .expected = declared,
                   .found = coarser.name,
                   .statement = fmt::format("activations are rounded to {} before the product, where they are taken {}",
                                            coarser.name, declared == "as stored" ? declared : "in " + declared),
                   .fix = "round activations as the engine's other products do, or not at all"});
  }
}

// Keys of earlier steps times a factor, as a step reads them from its cache; or all of them, by key/value head.
struct CacheScale {
  std::vector<double> factors;           // one, or one a key/value head
  std::vector<std::int64_t> step_start;  // [tokens]: keys before it come from the cache; empty: all do
};

void ScaleKeys(const ScoresOp& op, const CacheScale& scale, Value& scores) {
  const std::int64_t tokens = scores.shape[1];
  for (std::int64_t r = 0; r < scores.rows(); ++r) {
    const std::int64_t kv = KvHead(r / tokens, op.heads, op.kv_heads, op.tiled_heads);
    const double factor = scale.factors[scale.factors.size() == 1 ? 0 : static_cast<std::size_t>(kv)];
    const std::int64_t end = scale.step_start.empty() ? tokens : scale.step_start[static_cast<std::size_t>(r % tokens)];
    for (std::int64_t k = 0; k < end; ++k) scores.row(r)[static_cast<std::size_t>(k)] *= factor;
  }
}

// Probabilities in place of values: the sum is the same.
void ScaleProbabilities(const ContextOp& op, const CacheScale& scale, Value& probs) {
  ScoresOp like{.heads = op.heads, .kv_heads = op.kv_heads, .head_dim = op.head_dim, .tiled_heads = op.tiled_heads};
  ScaleKeys(like, scale, probs);
}

std::vector<std::int64_t> StepStarts(const Recording& recording) {
  std::vector<std::int64_t> starts(static_cast<std::size_t>(recording.run.count()));
  for (const TraceStep& step : recording.steps) {
    for (std::int64_t t = step.start; t < step.start + step.count; ++t)
      starts[static_cast<std::size_t>(t)] = step.start;
  }
  return starts;
}

// Least squares of recorded over replayed, by key/value head, over the pairs that the scale would touch.
std::vector<double> FactorsByHead(const SearchSite& site, const Node& node, std::int64_t heads, std::int64_t kv_heads,
                                  const std::vector<std::int64_t>& starts, bool tiled) {
  const Value right = site.replay().Evaluate(node.id, Replay::Pass::kExact, site.base());
  const RecordedSite& recorded = site.replay().recording().At(node.id);
  const bool scores = IsScoreShaped(node);
  const std::int64_t tokens = scores ? right.shape[1] : right.rows(), dim = scores ? 0 : right.cols() / heads;
  std::vector<double> cross(static_cast<std::size_t>(kv_heads)), square(cross.size());
  for (std::int64_t r = 0; r < right.rows(); ++r) {
    const std::int64_t t = r % tokens;
    if (!recorded.token_known[static_cast<std::size_t>(t)]) continue;
    const std::int64_t end = !scores || starts.empty() ? right.cols() : starts[static_cast<std::size_t>(t)];
    for (std::int64_t c = 0; c < end; ++c) {
      const auto head = static_cast<std::size_t>(KvHead(scores ? r / tokens : c / dim, heads, kv_heads, tiled));
      const double f = right.row(r)[static_cast<std::size_t>(c)],
                   x = recorded.value.row(r)[static_cast<std::size_t>(c)];
      if (!std::isfinite(f) || !std::isfinite(x)) continue;
      cross[head] += x * f;
      square[head] += f * f;
    }
  }
  for (std::size_t h = 0; h < cross.size(); ++h) cross[h] = square[h] > 0 ? cross[h] / square[h] : 1;
  return cross;
}

void PushScale(const SearchSite& site, const Node& node, const CacheScale& scale, const char* what, int parameters,
               std::vector<Hypothesis>& out) {
  auto fault = std::make_shared<KernelFault>();
  if (const auto* scores = std::get_if<ScoresOp>(&node.op)) {
    fault->output = [op = *scores, scale](std::span<const Value* const>, Value& value) { ScaleKeys(op, scale, value); };
  } else if (scale.step_start.empty()) {
    const ContextOp op = std::get<ContextOp>(node.op);
    fault->input = [op, scale](std::vector<Value>& inputs) {
      Value& v = inputs[1];
      for (std::int64_t t = 0; t < v.rows(); ++t) {
        for (std::int64_t c = 0; c < v.cols(); ++c)
          v.row(t)[static_cast<std::size_t>(c)] *=
              scale.factors[scale.factors.size() == 1 ? 0 : static_cast<std::size_t>(c / op.head_dim)];
      }
    };
  } else {
    fault->input = [op = std::get<ContextOp>(node.op), scale](std::vector<Value>& inputs) {
      if (!inputs[0].data.empty()) ScaleProbabilities(op, scale, inputs[0]);
    };
  }
  Node changed = node;
  changed.fault = std::move(fault);
  const bool cached = !scale.step_start.empty();
  nlohmann::ordered_json found = scale.factors[0];
  if (scale.factors.size() > 1) found = scale.factors;
  out.push_back(
      {.cause = "quant.kv_scale",
       .edit = site.With(changed),
       .expected = 1.0,
       .found = std::move(found),
       .statement = fmt::format("{}{} are off by {}{}", what, cached ? " read from the cache" : "",
                                scale.factors.size() > 1 ? "a factor of each head's own, the first by " : "the factor ",
                                fmt::format("{:.6g}", scale.factors[0])),
       .fix = "apply the cache's scale once when it is written and once, inverted, when it is read",
       .parameters = parameters});
}

void ProposeCacheScale(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  if (node.id != site.target().id || !site.graph().has_cache) return;
  const auto* scores = std::get_if<ScoresOp>(&node.op);
  const auto* context = std::get_if<ContextOp>(&node.op);
  if (scores != nullptr && scores->softcap > 0) return;  // the factor would lie below the cap
  const std::int64_t heads = scores != nullptr ? scores->heads : context->heads;
  const std::int64_t kv_heads = scores != nullptr ? scores->kv_heads : context->kv_heads;
  const bool tiled = scores != nullptr ? scores->tiled_heads : context->tiled_heads;
  const char* what = scores != nullptr ? "keys" : "values";
  const std::vector<double> all = FactorsByHead(site, node, heads, kv_heads, {}, tiled);
  const auto [low, high] = std::ranges::minmax(all);
  const double mean = (low + high) / 2;
  const bool uniform = std::fabs(high - low) <= 0.01 * std::fabs(mean);
  // One factor on all keys is a factor on the scores: attn.scale says the same with less.
  if (uniform) {
    for (const double factor : NiceNumbers(mean)) {
      if (std::fabs(factor - 1) > 1e-6) PushScale(site, node, {{factor}, {}}, what, scores != nullptr ? 2 : 1, out);
    }
  } else {
    PushScale(site, node, {all, {}}, what, static_cast<int>(kv_heads), out);
  }
  if (site.replay().recording().steps.size() < 2) return;
  const std::vector<std::int64_t> starts = StepStarts(site.replay().recording());
  if (scores != nullptr) {
    const std::vector<double> cached = FactorsByHead(site, node, heads, kv_heads, starts, tiled);
    const auto [least, most] = std::ranges::minmax(cached);
    if (std::fabs(most - least) > 0.01 * std::fabs(least)) {
      PushScale(site, node, {cached, starts}, what, static_cast<int>(kv_heads), out);
    } else {
      for (const double factor : NiceNumbers((least + most) / 2)) {
        if (std::fabs(factor - 1) > 1e-6) PushScale(site, node, {{factor}, starts}, what, 1, out);
      }
    }
    return;
  }
  // The factor enters the sum linearly: one replay with another factor gives its effect.
  std::vector<Hypothesis> probe;
  PushScale(site, node, {{2.0}, starts}, what, 1, probe);
  const Value right = site.replay().Evaluate(node.id, Replay::Pass::kExact, site.base());
  const Value doubled = site.replay().Evaluate(node.id, Replay::Pass::kExact, probe[0].edit);
  const RecordedSite& recorded = site.replay().recording().At(node.id);
  double cross = 0, square = 0;
  for (std::int64_t t = 0; t < right.rows(); ++t) {
    if (!recorded.token_known[static_cast<std::size_t>(t)]) continue;
    for (std::size_t c = 0; c < right.row(t).size(); ++c) {
      const double effect = doubled.row(t)[c] - right.row(t)[c], e = recorded.value.row(t)[c] - right.row(t)[c];
      if (!std::isfinite(effect) || !std::isfinite(e)) continue;
      cross += e * effect;
      square += effect * effect;
    }
  }
  if (!(square > 0)) return;
  for (const double factor : NiceNumbers(1 + cross / square)) {
    if (std::fabs(factor - 1) > 1e-6) PushScale(site, node, {{factor}, starts}, what, 1, out);
  }
}

}  // namespace

// Where an engine rounds activations anyhow, a coarser rounding hides in the noise of the right one.
void ProposeQuietInput(const SearchSite& site, std::vector<Hypothesis>& out) {
  const auto* linear = std::get_if<LinearOp>(&site.target().op);
  if (linear != nullptr && linear->bits == BitLinear::kNone && site.replay().arithmetic().is_ggml())
    ProposeActivations(site, site.target(), out);
}

void ProposeQuantInput(const SearchSite& site, std::vector<Hypothesis>& out) {
  for (const Node& node : site.segment()) {
    if (node.fault != nullptr) continue;
    const auto* linear = std::get_if<LinearOp>(&node.op);
    if (linear != nullptr && linear->bits == BitLinear::kNone) ProposeActivations(site, node, out);
    if (std::holds_alternative<ScoresOp>(node.op) || std::holds_alternative<ContextOp>(node.op))
      ProposeCacheScale(site, node, out);
  }
}

}  // namespace paritrace
