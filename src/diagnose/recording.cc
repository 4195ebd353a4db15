#include "diagnose/recording.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include <fmt/format.h>

#include "core/decode.h"
#include "core/error.h"

namespace paritrace {
namespace {

constexpr double kMaskedBelow = -1e30;  // the format's mark of a masked score
// f16 has no such number: its lowest stands for it, with a score added that may move it by some of the steps of 32 there.
constexpr double kMaskedHalf = -65504.0 + 8 * 32;

// Chosen experts and their weights are as many a token as the subject uses, which may be another number than MODEL's.
bool HasOwnWidth(const Node& node) {
  return std::holds_alternative<TopExpertsOp>(node.op) || std::holds_alternative<ExpertWeightsOp>(node.op);
}

// What the trace says of its steps; without a header, one step a distinct step number, as long as its tensors.
std::vector<TraceStep> StepsOf(const Trace& trace, const Graph& graph) {
  if (!trace.header.steps.empty()) return trace.header.steps;
  std::vector<TraceStep> steps;
  std::int64_t start = 0;
  for (const int step : trace.Steps()) {
    std::int64_t count = 0;
    for (const TraceEntry& entry : trace.entries) {
      const Node* node = entry.step == step && !entry.site.empty() ? graph.Find(entry.site) : nullptr;
      if (node == nullptr || IsScoreShaped(*node) || HasOwnWidth(*node)) continue;
      const std::int64_t width = WidthOf(graph, *node);
      if (width > 0) count = std::max(count, entry.tensor.size() / width);
    }
    steps.push_back({step, start, count});
    start += count;
  }
  return steps;
}

[[noreturn]] void RefuseShape(const Trace& trace, const TraceEntry& entry, const std::string& expected) {
  throw IncomparableError(fmt::format("{}: step {}, {}: expected {}, found {}; is this a trace of another model?",
                                      trace.path, entry.step, entry.site, expected, ToString(entry.tensor.shape)));
}

void StoreScores(const Trace& trace, const TraceEntry& entry, const TraceStep& step, const Node& node,
                 RecordedSite& site) {
  Shape shape = WithoutLeadingOnes(entry.tensor.shape, 3);
  if (shape.size() == 2 && site.value.shape[0] == 1) shape.insert(shape.begin(), 1);  // a single head
  const std::int64_t tokens = site.value.shape[1], keys = step.start + step.count;
  // A cache that drops what has left a sliding window holds only the last keys; the others are masked.
  const bool may_be_cut = step.start > 0 && shape.size() == 3 && shape[2] >= step.count;
  if (shape.size() != 3 || shape[0] != site.value.shape[0] || shape[1] != step.count ||
      (shape[2] < keys && !may_be_cut)) {
    RefuseShape(trace, entry, fmt::format("[{}, {}, {}]", site.value.shape[0], step.count, keys));
  }
  const bool is_scores = std::holds_alternative<ScoresOp>(node.op);
  const double masked = entry.tensor.dtype == DType::kF16 ? kMaskedHalf : kMaskedBelow;
  const std::vector<double> values = DecodeAll(entry.tensor);
  for (std::int64_t h = 0; h < shape[0]; ++h) {
    for (std::int64_t q = 0; q < step.count; ++q) {
      const double* from = values.data() + (h * shape[1] + q) * shape[2];
      double* to = site.value.data.data() + (h * tokens + step.start + q) * tokens;
      const std::int64_t dropped = std::max<std::int64_t>(keys - shape[2], 0);
      for (std::int64_t k = dropped; k < keys; ++k) {
        to[k] = is_scores && from[k - dropped] <= masked ? -std::numeric_limits<double>::infinity() : from[k - dropped];
      }
    }
  }
  for (std::int64_t t = step.start; t < keys; ++t) site.token_known[static_cast<std::size_t>(t)] = true;
}

void StoreRows(const Trace& trace, const TraceEntry& entry, const TraceStep& step, const Node& node,
               RecordedSite& site) {
  const Shape shape = WithoutLeadingOnes(entry.tensor.shape, 1);
  const std::int64_t width = site.value.cols(), rows = width == 0 ? 0 : entry.tensor.size() / width;
  // An engine that needs only the last token's logits computes only those, and may cut the last layer's tail with them.
  const bool may_be_cut = node.site == "logits" || node.site == "final_norm";
  const bool whole =
      rows * width == entry.tensor.size() && (rows == step.count || (may_be_cut && rows < step.count && rows > 0));
  if (!whole) RefuseShape(trace, entry, fmt::format("[{}, {}]", step.count, width));
  // Tokens outermost, or [heads, tokens, head_dim] as attention code often holds it.
  const bool heads_first = shape.size() == 3 && shape[0] != rows && shape[1] == rows && shape[0] * shape[2] == width;
  if (!heads_first && shape.size() > 1 && shape[0] != rows)
    RefuseShape(trace, entry, fmt::format("[{}, {}]", step.count, width));
  const std::vector<double> values = DecodeAll(entry.tensor);
  const std::int64_t first = step.start + step.count - rows;
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto to = site.value.row(first + r);
    for (std::int64_t c = 0; c < width; ++c) {
      const std::int64_t at = heads_first ? ((c / shape[2]) * rows + r) * shape[2] + c % shape[2] : r * width + c;
      to[static_cast<std::size_t>(c)] = values[static_cast<std::size_t>(at)];
    }
    site.token_known[static_cast<std::size_t>(first + r)] = true;
  }
}

// One row for the whole sequence, of the width it has: a projection may be missing or extra. llama.cpp's graph ends before
// the normalisation, which it leaves to its callers.
void StorePooled(const Trace& trace, const TraceEntry& entry, const Graph& graph, const Node& pooled,
                 Recording& recording) {
  const bool raw = entry.name.starts_with("result_embd_pooled") && std::holds_alternative<UnitOp>(pooled.op);
  const Node& node = raw ? graph.nodes[static_cast<std::size_t>(pooled.inputs[0])] : pooled;
  auto& site = recording.sites[static_cast<std::size_t>(node.id)];
  if (site) return;  // the first of a name stands
  const Shape shape = WithoutLeadingOnes(entry.tensor.shape, 1);
  if (shape.size() != 1) RefuseShape(trace, entry, fmt::format("[{}]", WidthOf(graph, node)));
  site.emplace();
  site->value = Value({1, entry.tensor.size()});
  site->value.data = DecodeAll(entry.tensor);
  site->token_known = {true};
  site->name = entry.name;
}

// The layer of a site "layers.N.…", and what follows its number; -1 for other names.
std::pair<int, std::string_view> LayerAndRole(const std::string& site) {
  constexpr std::string_view kPrefix = "layers.";
  if (!site.starts_with(kPrefix)) return {kAbsent, site};
  const std::size_t dot = site.find('.', kPrefix.size());
  if (dot == std::string::npos || dot == kPrefix.size() || dot > kPrefix.size() + 6) return {kAbsent, site};
  int layer = 0;
  for (const char c : site.substr(kPrefix.size(), dot - kPrefix.size())) {
    if (c < '0' || c > '9') return {kAbsent, site};
    layer = layer * 10 + (c - '0');
  }
  return {layer, std::string_view(site).substr(dot + 1)};
}

// A layer that MODEL does not have. What enters the one behind the last is only the last one's output under another name.
void RefuseMoreLayers(const Trace& trace, const TraceEntry& entry, const Graph& graph) {
  const auto [layer, role] = LayerAndRole(entry.site);
  if (layer < graph.layers || (layer == graph.layers && role == "in")) return;
  throw IncomparableError(
      fmt::format("{}: {}: expected {} layers, found layer {}; is this a trace of another "
                  "model, or does the config state too few layers?",
                  trace.path, entry.site, graph.layers, layer));
}

bool IsDenseInside(std::string_view role) { return role == "mlp.gate" || role == "mlp.up" || role == "mlp.act"; }

// Layers whose recorded names say that they ran a mixture where the graph is dense; or a dense block where the graph has a
// mixture, and other layers recorded theirs.
std::map<int, bool> OtherSchedule(const Trace& trace, const Graph& graph) {
  std::set<int> routed, dense, mixtures;
  for (const TraceEntry& entry : trace.entries) {
    const auto [layer, role] = LayerAndRole(entry.site);
    if (layer == kAbsent || !entry.has_data()) continue;
    if (role.starts_with("moe.")) routed.insert(layer);
    if (IsDenseInside(role)) dense.insert(layer);
  }
  for (const Node& node : graph.nodes) {
    if (std::holds_alternative<ExpertsOp>(node.op)) mixtures.insert(node.layer);
  }
  std::map<int, bool> other;
  if (mixtures.empty()) return other;
  for (const int layer : routed) {
    if (layer < graph.layers && !mixtures.contains(layer)) other[layer] = true;
  }
  const bool shows_routers = std::ranges::any_of(routed, [&](int layer) { return mixtures.contains(layer); });
  for (const int layer : dense) {
    if (shows_routers && mixtures.contains(layer) && !routed.contains(layer)) other[layer] = false;
  }
  return other;
}

// Columns of a site as this entry has them.
std::int64_t RecordedWidth(const Graph& graph, const Node& node, const TraceEntry& entry, const TraceStep& step) {
  if (HasOwnWidth(node) && step.count > 0 && entry.tensor.size() % step.count == 0)
    return entry.tensor.size() / step.count;
  return WidthOf(graph, node);
}

void CheckExperts(const Trace& trace, const Node& node, const RecordedSite& site) {
  const auto experts = static_cast<double>(std::get<TopExpertsOp>(node.op).experts);
  for (const double id : site.value.data) {
    if (id >= 0 && id < experts && id == std::floor(id)) continue;
    throw IncomparableError(
        fmt::format("{}: {}: expected expert ids below {}, found {}; is this a trace of another model?", trace.path,
                    node.site, experts, id));
  }
}

// Weights by expert, with zeros for those that are not used, hold the choice as well: both are brought into order of weight.
void SortExpertWeights(const Graph& graph, const Node& node, Recording& recording) {
  auto& weights = recording.sites[static_cast<std::size_t>(node.id)];
  auto& chosen = recording.sites[static_cast<std::size_t>(node.inputs[1])];
  const std::int64_t used = std::get<TopExpertsOp>(graph.nodes[static_cast<std::size_t>(node.inputs[1])].op).used;
  const std::int64_t experts = std::get<TopExpertsOp>(graph.nodes[static_cast<std::size_t>(node.inputs[1])].op).experts;
  if (!weights || weights->value.cols() == (chosen ? chosen->value.cols() : used)) return;
  if (weights->value.cols() != experts || (!chosen && !weights->complete())) {
    weights.reset();  // as many as of nothing known: their owners cannot be told
    return;
  }
  const Value by_expert = weights->value;
  if (!chosen) {
    chosen = *weights;
    chosen->name = weights->name;
    chosen->value = Value({by_expert.rows(), used});
    for (std::int64_t t = 0; t < by_expert.rows(); ++t)
      std::ranges::copy(ComputeTopExperts({.experts = experts, .used = used}, by_expert).row(t),
                        chosen->value.row(t).begin());
  }
  weights->value = Value(chosen->value.shape);
  for (std::int64_t t = 0; t < by_expert.rows(); ++t) {
    for (std::size_t i = 0; i < weights->value.row(t).size(); ++i) {
      const double id = chosen->value.row(t)[i];
      weights->value.row(t)[i] = id >= 0 ? by_expert.row(t)[static_cast<std::size_t>(id)] : id;
    }
  }
}

// The coarsest float format that holds all of the values recorded.
class GridFinder {
 public:
  void Add(const RecordedSite& site) {
    for (std::size_t i = 0; i < site.value.data.size() && !(f64_ && f32_); i += 7) {
      const double value = site.value.data[i];
      if (!std::isfinite(value)) continue;
      if (Round(Rounding::kBF16, value) != value) bf16_ = false;
      if (Round(Rounding::kF16, value) != value) f16_ = false;
      if (Round(Rounding::kF32, value) != value) f64_ = true;
    }
  }
  [[nodiscard]] Rounding Grid() const {
    if (bf16_) return Rounding::kBF16;
    if (f16_) return Rounding::kF16;
    return f64_ ? Rounding::kNone : Rounding::kF32;
  }

 private:
  bool bf16_ = true, f16_ = true, f32_ = false, f64_ = false;
};

// Token ids as the trace states them; all kUnknownToken if it states none.
std::vector<std::int64_t> TokensOf(const Trace& trace, std::int64_t count) {
  const auto& sequences = trace.header.tokens;
  if (sequences.size() > 1) {
    throw UsageError(fmt::format("{}: run.tokens: expected one sequence, found {}; record them one by one", trace.path,
                                 sequences.size()));
  }
  if (sequences.empty()) return std::vector<std::int64_t>(static_cast<std::size_t>(count), kUnknownToken);
  if (static_cast<std::int64_t>(sequences[0].size()) < count) {
    throw FormatError(trace.path, "run.tokens", fmt::format("{} ids, as the steps say", count),
                      fmt::format("{}", sequences[0].size()));
  }
  return {sequences[0].begin(), sequences[0].begin() + count};
}

// The row of the embedding table that a recorded row came from: the nearest, if it is near at all.
std::int64_t NearestRow(const Weight& table, std::span<const double> wanted) {
  const std::int64_t width = table.tensor.shape[1];
  std::vector<double> row(static_cast<std::size_t>(width));
  std::int64_t best = kUnknownToken;
  double signal = 0;
  for (const double x : wanted) signal += x * x;
  double least = 0.01 * signal;  // rounding and quantisation stay far below a tenth of a row
  for (std::int64_t r = 0; r < table.tensor.shape[0]; ++r) {
    DecodeF64(table.tensor, r * width, width, row.data());
    double distance = 0;
    for (std::size_t i = 0; i < row.size() && distance < least; ++i)
      distance += (row[i] - wanted[i]) * (row[i] - wanted[i]);
    if (distance < least) {
      least = distance;
      best = r;
    }
  }
  return best;
}

// Recorded embeddings less the positions and types that were added to those of the tokens, and without their scale.
Value WithoutOtherTerms(const Graph& graph, const Node& embed, const Recording& recording) {
  Value rows = recording.At(embed.id).value;
  const auto* lookup = std::get_if<EmbedOp>(&embed.op);
  if (lookup != nullptr && lookup->scale != 1) {
    for (double& value : rows.data) value /= lookup->scale;
  }
  for (std::size_t i = 1; i < embed.inputs.size(); ++i) {
    const Value term = Compute(graph.nodes[static_cast<std::size_t>(embed.inputs[i])], {}, graph, recording.run,
                               *FindArithmetic("f64"));
    for (std::size_t j = 0; j < rows.data.size(); ++j) rows.data[j] -= term.data[j];
  }
  return rows;
}

void RecoverTokens(const Graph& graph, Recording& recording) {
  const Node* embed = graph.Find("embed");
  std::size_t known = 0;
  if (embed != nullptr && recording.Has(embed->id) && !std::holds_alternative<UnknownOp>(embed->op)) {
    const Node* tokens = embed;
    if (!embed->inputs.empty()) tokens = &graph.nodes[static_cast<std::size_t>(embed->inputs[0])];
    const Weight& table = graph.weights[static_cast<std::size_t>(tokens->weight)];
    const Value rows = WithoutOtherTerms(graph, *embed, recording);
    for (std::size_t t = 0; t < recording.run.tokens.size(); ++t) {
      if (!recording.At(embed->id).token_known[t]) continue;
      recording.run.tokens[t] = NearestRow(table, rows.row(static_cast<std::int64_t>(t)));
      known += recording.run.tokens[t] != kUnknownToken ? 1 : 0;
    }
  }
  recording.token_remark =
      known == recording.run.tokens.size()
          ? "the trace states no token ids: they were read off its embedding rows"
          : "the trace states no token ids: what comes before its first recorded tensor was not judged";
}

}  // namespace

bool RecordedSite::complete() const {
  return std::ranges::all_of(token_known, [](bool known) { return known; });
}

int Recording::StepOf(std::int64_t index) const {
  int found = 0;
  for (const TraceStep& step : steps) {
    if (index >= step.start) found = step.step;
  }
  return found;
}

bool IsScoreShaped(const Node& node) {
  return std::holds_alternative<ScoresOp>(node.op) || std::holds_alternative<SoftmaxOp>(node.op);
}

std::int64_t WidthOf(const Graph& graph, const Node& node) {
  if (const auto* scores = std::get_if<ScoresOp>(&node.op)) return scores->heads;
  if (const auto* context = std::get_if<ContextOp>(&node.op)) return context->heads * context->head_dim;
  if (std::holds_alternative<EmbedOp>(node.op)) return graph.hidden;
  if (std::holds_alternative<LinearOp>(node.op))
    return graph.weights[static_cast<std::size_t>(node.weight)].tensor.shape[0];
  if (const auto* experts = std::get_if<TopExpertsOp>(&node.op)) return experts->used;
  if (const auto* pool = std::get_if<PoolOp>(&node.op)) {
    return static_cast<std::int64_t>(pool->modes.size()) *
           WidthOf(graph, graph.nodes[static_cast<std::size_t>(node.inputs[0])]);
  }
  if (const auto* unknown = std::get_if<UnknownOp>(&node.op)) return unknown->width;
  const std::size_t same = std::holds_alternative<ExpertWeightsOp>(node.op) ? 1 : 0;
  return WidthOf(graph, graph.nodes[static_cast<std::size_t>(node.inputs[same])]);
}

Recording AssembleRecording(const Trace& trace, const Graph& graph) {
  Recording recording;
  recording.steps = StepsOf(trace, graph);
  std::int64_t count = 0;
  for (const TraceStep& step : recording.steps) {
    if (step.start != count || step.count < 0) {
      throw FormatError(trace.path, fmt::format("run.steps, step {}", step.step), fmt::format("start {}", count),
                        fmt::format("start {}, count {}", step.start, step.count));
    }
    count += step.count;
    recording.run.ends.insert(recording.run.ends.end(), static_cast<std::size_t>(step.count), count);
  }
  recording.run.tokens = TokensOf(trace, count);
  for (const std::int64_t token : recording.run.tokens) {
    if (token == kUnknownToken) continue;
    if (token < 0 || token >= graph.vocabulary) {
      throw IncomparableError(
          fmt::format("{}: run.tokens: token {} is outside MODEL's vocabulary of {}; is this a trace of another model?",
                      trace.path, token, graph.vocabulary));
    }
  }
  for (std::int64_t t = 0; t < count; ++t) recording.run.positions.push_back(t);
  recording.sites.resize(graph.nodes.size());
  GridFinder grid;
  recording.other_schedule = OtherSchedule(trace, graph);
  for (const TraceEntry& entry : trace.entries) {
    if (entry.site.empty() || !entry.has_data()) continue;
    // The inside of a block of the other kind has sizes of its own.
    if (const auto [layer, role] = LayerAndRole(entry.site);
        IsDenseInside(role) && recording.other_schedule.contains(layer))
      continue;
    const Node* node = graph.Find(entry.site);
    if (node != nullptr && node->pooled) {
      if (recording.steps.size() == 1) StorePooled(trace, entry, graph, *node, recording);
      continue;
    }
    if (node == nullptr) {
      RefuseMoreLayers(trace, entry, graph);
      if (std::ranges::find(recording.unknown_sites, entry.site) == recording.unknown_sites.end())
        recording.unknown_sites.push_back(entry.site);
      continue;
    }
    const auto step = std::ranges::find(recording.steps, entry.step, &TraceStep::step);
    if (step == recording.steps.end()) continue;
    auto& site = recording.sites[static_cast<std::size_t>(node->id)];
    const bool scores = IsScoreShaped(*node);
    if (!site) {
      site.emplace();
      site->value = Value(scores ? Shape{WidthOf(graph, *node), count, count}
                                 : Shape{count, RecordedWidth(graph, *node, entry, *step)});
      if (std::holds_alternative<ScoresOp>(node->op))
        std::ranges::fill(site->value.data, -std::numeric_limits<double>::infinity());
      site->token_known.assign(static_cast<std::size_t>(count), false);
      site->name = entry.name;
    }
    if (step->count > 0 && site->token_known[static_cast<std::size_t>(step->start + step->count - 1)])
      continue;  // the first of a name stands
    if (scores) {
      StoreScores(trace, entry, *step, *node, *site);
    } else {
      StoreRows(trace, entry, *step, *node, *site);
    }
  }
  for (const auto& site : recording.sites) {
    if (!site) continue;
    ++recording.recorded_count;
  }
  for (const Node& node : graph.nodes) {
    const auto& site = recording.sites[static_cast<std::size_t>(node.id)];
    if (site && std::holds_alternative<TopExpertsOp>(node.op)) CheckExperts(trace, node, *site);
    if (std::holds_alternative<ExpertWeightsOp>(node.op)) SortExpertWeights(graph, node, recording);
    if (site && !node.wide) grid.Add(*site);
  }
  if (recording.recorded_count == 0) {
    throw IncomparableError(fmt::format("{}: expected at least one site of MODEL ({}), found none among {} tensors",
                                        trace.path, graph.architecture, trace.entries.size()));
  }
  if (trace.header.tokens.empty()) RecoverTokens(graph, recording);
  recording.grid = grid.Grid();
  return recording;
}

}  // namespace paritrace
