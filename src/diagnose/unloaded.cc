#include "diagnose/unloaded.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "core/decode.h"
#include "diagnose/hypothesis.h"
#include "diagnose/random_rows.h"
#include "diagnose/site_stats.h"
#include "diagnose/verdict.h"

namespace paritrace {
namespace {

constexpr std::size_t kMostTokens = 64;
constexpr std::size_t kFewestTokens = 4;

// Standard deviations that initialisations have.
std::string InitialisationOf(double deviation, double in, double out) {
  const std::array<std::pair<double, const char*>, 6> known = {
      {{0.02, "0.02, as transformers initialises"},
       {1 / std::sqrt(3 * in), "1/sqrt(3 in), as torch's Linear"},
       {1 / std::sqrt(in), "1/sqrt(in)"},
       {std::sqrt(2 / in), "sqrt(2/in)"},
       {std::sqrt(2 / (in + out)), "sqrt(2/(in + out))"},
       {1.0, "1, as torch's Embedding"}}};
  for (const auto& [value, name] : known) {
    if (std::fabs(deviation / value - 1) < 0.04) return name;
  }
  return "";
}

UnloadedWeight Random(double deviation, const std::string& known, bool like_the_file, const std::string& name) {
  UnloadedWeight result{.found = fmt::format("random values of std {:.2g}", deviation),
                        .confidence = like_the_file   ? 0.5
                                      : known.empty() ? 0.6
                                                      : 0.8};
  result.statement = fmt::format(
      "the output has no relation to {} nor to any other weight of its shape, and looks like that of values drawn at "
      "random "
      "with std {:.3g}{}: the weight was never loaded",
      name, deviation, known.empty() ? "" : " (" + known + ")");
  return result;
}

// Recorded and replayed rows of the first known tokens, less the bias; empty where something is not finite.
struct Sample {
  Rows inputs, recorded, right;
};

std::optional<Sample> SampleOf(const Replay& replay, const Node& node, bool distinct_tokens) {
  const RecordedSite& recorded = replay.recording().At(node.id);
  const Value& exact = replay.Exact(node.id);
  std::vector<double> bias;
  if (node.bias != kAbsent) bias = DecodeAll(replay.graph().weights[static_cast<std::size_t>(node.bias)].tensor);
  Sample sample;
  std::vector<std::int64_t> seen;
  for (std::int64_t t = 0; t < exact.rows() && sample.recorded.size() < kMostTokens; ++t) {
    if (!recorded.token_known[static_cast<std::size_t>(t)]) continue;
    const std::int64_t token = replay.recording().run.tokens[static_cast<std::size_t>(t)];
    if (distinct_tokens && std::ranges::find(seen, token) != seen.end()) continue;
    seen.push_back(token);
    const auto row = recorded.value.row(t), right = exact.row(t);
    sample.recorded.emplace_back(row.begin(), row.end());
    sample.right.emplace_back(right.begin(), right.end());
    if (!bias.empty()) {
      Subtract(sample.recorded.back(), bias, 1);
      Subtract(sample.right.back(), bias, 1);
    }
    if (!node.inputs.empty()) {
      const auto input = replay.Input(node.inputs[0]).row(t);
      sample.inputs.emplace_back(input.begin(), input.end());
    }
    for (const Rows* rows : {&sample.recorded, &sample.right, &sample.inputs}) {
      if (!rows->empty() && !std::ranges::all_of(rows->back(), [](double x) { return std::isfinite(x); }))
        return std::nullopt;
    }
  }
  if (sample.recorded.size() < kFewestTokens) return std::nullopt;
  return sample;
}

// True if another matrix of the file gives the recorded outputs, in part at least.
bool IsAnotherWeight(const Replay& replay, const Node& node) {
  constexpr double kRelated = 0.3;
  const RecordedSite& recorded = replay.recording().At(node.id);
  const auto& weights = replay.graph().weights;
  const Shape& shape = weights[static_cast<std::size_t>(node.weight)].tensor.shape;
  for (std::size_t id = 0; id < weights.size(); ++id) {
    if (weights[id].tensor.shape != shape) continue;
    for (const bool transposed : {false, true}) {
      if (transposed && shape[0] != shape[1]) continue;
      Node changed = node;
      changed.weight = static_cast<WeightId>(id);
      changed.bias = kAbsent;
      std::get<LinearOp>(changed.op).transposed = transposed;
      const Value other = replay.Evaluate(node.id, Replay::Pass::kExact, {{node.id, changed}});
      double ab = 0, aa = 0, bb = 0;
      for (std::size_t i = 0; i < other.data.size(); ++i) {
        const double a = recorded.value.data[i], b = other.data[i];
        if (!std::isfinite(a) || !std::isfinite(b)) continue;
        ab += a * b;
        aa += a * a;
        bb += b * b;
      }
      if (aa > 0 && bb > 0 && std::fabs(ab) > kRelated * std::sqrt(aa * bb)) return true;
    }
  }
  return false;
}

double DeviationOf(const Weight& weight) {
  constexpr std::int64_t kLooked = 1 << 20;
  const std::int64_t rows = weight.tensor.shape[0], cols = weight.tensor.shape.size() > 1 ? weight.tensor.shape[1] : 1;
  std::vector<double> row(static_cast<std::size_t>(cols));
  double square = 0, count = 0;
  for (std::int64_t r = 0; r < rows && count < kLooked; ++r) {
    DecodeF64(weight.tensor, r * cols, cols, row.data());
    square += Dot(row, row);
    count += static_cast<double>(cols);
  }
  return count > 0 ? std::sqrt(square / count) : 0;
}

std::optional<UnloadedWeight> UnloadedMatrix(const Replay& replay, const Node& node) {
  std::optional<Sample> sample = SampleOf(replay, node, false);
  if (!sample || IsReordered(sample->recorded, sample->right)) return std::nullopt;
  Whiten(sample->inputs, {&sample->recorded, &sample->right});
  if (sample->recorded.size() < kFewestTokens) return std::nullopt;
  const auto values = static_cast<double>(sample->recorded.size() * sample->recorded[0].size());
  double square = 0;
  for (const auto& row : sample->recorded) square += Dot(row, row);
  const double variance = square / values;
  if (!(variance > 0) || !LooksRandom(sample->recorded, variance)) return std::nullopt;
  if (!(std::fabs(Correlation(sample->recorded, sample->right)) <= kSigmas / std::sqrt(values))) return std::nullopt;
  if (IsAnotherWeight(replay, node)) return std::nullopt;
  const Weight& weight = replay.graph().weights[static_cast<std::size_t>(node.weight)];
  const double deviation = std::sqrt(variance), own = DeviationOf(weight);
  UnloadedWeight result = Random(deviation,
                                 InitialisationOf(deviation, static_cast<double>(weight.tensor.shape[1]),
                                                  static_cast<double>(weight.tensor.shape[0])),
                                 own > 0 && std::fabs(deviation / own - 1) < 0.05, weight.name);
  result.tied_head = weight.role == "embed";
  return result;
}

std::optional<UnloadedWeight> UnloadedEmbedding(const Replay& replay, const Node& node) {
  const std::optional<Sample> sample = SampleOf(replay, node, true);
  if (!sample) return std::nullopt;
  const Weight& table = replay.graph().weights[static_cast<std::size_t>(node.weight)];
  const auto width = static_cast<std::size_t>(table.tensor.shape[1]);
  const auto values = static_cast<double>(sample->recorded.size() * width);
  double square = 0;
  for (const auto& row : sample->recorded) square += Dot(row, row);
  const double variance = square / values;
  if (!(variance > 0) || !LooksRandom(sample->recorded, variance)) return std::nullopt;
  if (!(std::fabs(Correlation(sample->recorded, sample->right)) <= kSigmas / std::sqrt(values))) return std::nullopt;
  // No row of the table, under whatever number, may be one of those recorded.
  std::vector<double> row(width);
  for (std::int64_t r = 0; r < table.tensor.shape[0]; ++r) {
    DecodeF64(table.tensor, r * static_cast<std::int64_t>(width), static_cast<std::int64_t>(width), row.data());
    for (std::size_t t = 0; t < 2; ++t) {
      const double along = Dot(row, sample->recorded[t]);
      if (along * along > 0.5 * Dot(row, row) * Dot(sample->recorded[t], sample->recorded[t])) return std::nullopt;
    }
  }
  const double scale = std::get<EmbedOp>(node.op).scale, deviation = std::sqrt(variance) / (scale == 0 ? 1 : scale),
               own = DeviationOf(table);
  return Random(deviation,
                InitialisationOf(deviation, static_cast<double>(width), static_cast<double>(table.tensor.shape[0])),
                own > 0 && std::fabs(deviation / own - 1) < 0.05, table.name);
}

std::optional<UnloadedWeight> UnloadedNorm(const Replay& replay, const Node& node) {
  const NormOp right = std::get<NormOp>(node.op);
  const RecordedSite& recorded = replay.recording().At(node.id);
  Node plain = node;
  std::get<NormOp>(plain.op).use = NormWeight::kMissing;
  plain.bias = kAbsent;
  const Value normed = replay.Evaluate(node.id, Replay::Pass::kExact, {{node.id, plain}});
  const std::vector<double> own = DecodeAll(replay.graph().weights[static_cast<std::size_t>(node.weight)].tensor);
  if (own.size() != static_cast<std::size_t>(normed.cols()) || node.bias != kAbsent) return std::nullopt;
  std::size_t tokens = 0;
  std::vector<double> cross(own.size()), square(own.size()), used(own.size());
  for (std::int64_t t = 0; t < normed.rows(); ++t) {
    if (!recorded.token_known[static_cast<std::size_t>(t)]) continue;
    ++tokens;
    for (std::size_t c = 0; c < own.size(); ++c) {
      cross[c] += recorded.value.row(t)[c] * normed.row(t)[c];
      square[c] += normed.row(t)[c] * normed.row(t)[c];
    }
  }
  if (tokens < kFewestTokens) return std::nullopt;
  const double one = right.use == NormWeight::kPlusOne ? 1.0 : 0.0;
  for (std::size_t c = 0; c < own.size(); ++c) used[c] = square[c] > 0 ? cross[c] / square[c] - one : 0;
  const auto count = static_cast<double>(own.size());
  const double mean = std::accumulate(used.begin(), used.end(), 0.0) / count,
               own_mean = std::accumulate(own.begin(), own.end(), 0.0) / count;
  double both = 0, mine = 0, theirs = 0;
  for (std::size_t c = 0; c < own.size(); ++c) {
    both += (used[c] - mean) * (own[c] - own_mean);
    mine += (used[c] - mean) * (used[c] - mean);
    theirs += (own[c] - own_mean) * (own[c] - own_mean);
  }
  if (!(std::fabs(both) <= kSigmas / std::sqrt(count) * std::sqrt(mine * theirs))) return std::nullopt;
  if (!std::isfinite(mean)) return std::nullopt;
  Node changed = node;
  std::get<NormOp>(changed.op).weight_values = used;
  const Edit edit = {{node.id, changed}};
  const Value exact = replay.Evaluate(node.id, Replay::Pass::kExact, edit),
              predicted = replay.Evaluate(node.id, Replay::Pass::kPredicted, edit),
              sampled = replay.Evaluate(node.id, Replay::Pass::kSampled, edit);
  const SiteStats stats = MeasureSite(replay.graph(), node, recorded, {exact, predicted, sampled}, nullptr,
                                      replay.arithmetic(), {0, replay.recording().run.count()});
  if (JudgeSize(stats).flagged) return std::nullopt;
  const double deviation = std::sqrt(mine / count);
  return UnloadedWeight{
      .found = fmt::format("values of mean {:.2g} and std {:.2g}", mean, deviation),
      .statement = fmt::format("the norm multiplies by a weight without relation to {}: its values, recovered from the "
                               "output, have mean {:.3g} and std {:.3g}",
                               replay.graph().weights[static_cast<std::size_t>(node.weight)].name, mean, deviation),
      .confidence = 0.8,
      .edit = edit};
}

}  // namespace

std::optional<UnloadedWeight> FindUnloaded(const Replay& replay, NodeId target) {
  const Node& node = replay.graph().nodes[static_cast<std::size_t>(target)];
  if (node.weight == kAbsent) return std::nullopt;
  if (const auto* linear = std::get_if<LinearOp>(&node.op)) {
    return linear->bits == BitLinear::kNone ? UnloadedMatrix(replay, node) : std::nullopt;
  }
  if (std::holds_alternative<EmbedOp>(node.op)) return UnloadedEmbedding(replay, node);
  if (std::holds_alternative<NormOp>(node.op)) return UnloadedNorm(replay, node);
  return std::nullopt;
}

// Weights that are still zero: those alone can be built into the model. Anything else is left to FindUnloaded.
void ProposeUnloaded(const SearchSite& site, std::vector<Hypothesis>& out) {
  Node zero = site.target();  // further back, other mistakes leave nothing as well
  if (zero.weight == kAbsent) return;
  if (auto* linear = std::get_if<LinearOp>(&zero.op)) {
    linear->factor = 0;
  } else if (auto* embed = std::get_if<EmbedOp>(&zero.op)) {
    embed->scale = 0;
  } else if (auto* norm = std::get_if<NormOp>(&zero.op)) {
    norm->weight_factor = 0;
  } else {
    return;
  }
  const std::string& name = site.graph().weights[static_cast<std::size_t>(zero.weight)].name;
  out.push_back({.cause = "weights.unloaded",
                 .edit = site.With(zero),
                 .expected = name,
                 .found = "zeros",
                 .statement = fmt::format("{} is zero throughout: it was never loaded", name),
                 .fix = "make the loader fail on names that it does not find",
                 .whole = true});
}

}  // namespace paritrace
