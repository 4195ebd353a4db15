#include "diagnose/routing.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>

#include <fmt/format.h>

namespace paritrace {
namespace {

using Ids = std::vector<std::int64_t>;

// The experts of one token; nullopt if a value is no expert's id, or one stands twice.
std::optional<Ids> IdsOf(std::span<const double> row, std::int64_t experts) {
  Ids ids;
  for (const double value : row) {
    if (!(value >= 0 && value < static_cast<double>(experts)) || value != std::floor(value)) return std::nullopt;
    ids.push_back(static_cast<std::int64_t>(value));
    if (std::ranges::count(ids, ids.back()) > 1) return std::nullopt;
  }
  return ids;
}

bool SameSet(Ids a, Ids b) {
  std::ranges::sort(a);
  std::ranges::sort(b);
  return a == b;
}

Ids Without(const Ids& all, const Ids& some) {
  Ids rest;
  for (const std::int64_t id : all) {
    if (std::ranges::find(some, id) == some.end()) rest.push_back(id);
  }
  return rest;
}

// The pair that makes a choice wrong most: the likeliest expert left out, and the least likely one taken.
struct Swap {
  std::int64_t left_out, taken;
  double margin;  // how much likelier the one left out is; below 0 the choice is right
};

std::optional<Swap> WorstSwap(std::span<const double> probs, const Ids& right, const Ids& chosen) {
  const Ids left_out = Without(right, chosen), taken = Without(chosen, right);
  if (left_out.empty() || taken.empty()) return std::nullopt;
  const auto prob = [&](std::int64_t id) { return probs[static_cast<std::size_t>(id)]; };
  const std::int64_t best = *std::ranges::max_element(left_out, {}, prob),
                     worst = *std::ranges::min_element(taken, {}, prob);
  return Swap{best, worst, prob(best) - prob(worst)};
}

Ids TopOf(std::span<const double> probs, std::int64_t used) {
  Value row({1, static_cast<std::int64_t>(probs.size())});
  std::ranges::copy(probs, row.data.begin());
  const Value top = ComputeTopExperts({.experts = row.cols(), .used = used}, row);
  return IdsOf(top.row(0), row.cols()).value_or(Ids());
}

bool IsFinite(std::span<const double> row) {
  return std::ranges::all_of(row, [](double x) { return std::isfinite(x); });
}

// What the subject's arithmetic may add to the difference of two of a token's probabilities.
double NoiseAt(const Replay& replay, NodeId probs, std::int64_t token) {
  const auto seen = replay.Input(probs).row(token);
  double noise = 0;
  for (const double p : seen) noise = std::max(noise, HalfUlp(Rounding::kF32, p));
  if (!replay.recording().Has(probs)) {
    const auto exact = replay.Exact(probs).row(token), predicted = replay.Predicted(probs).row(token),
               sampled = replay.Sampled(probs).row(token);
    for (std::size_t i = 0; i < exact.size(); ++i) {
      noise = std::max({noise, std::fabs(predicted[i] - exact[i]), std::fabs(sampled[i] - exact[i])});
    }
  }
  return noise * GroupLimit(static_cast<std::int64_t>(seen.size()));
}

std::int64_t UsedBy(const Node& node) { return std::get<TopExpertsOp>(node.op).used; }

// The first recorded node that the experts chosen at `node` lead to.
NodeId RecordedBehind(const Replay& replay, NodeId chosen) {
  std::vector<NodeId> reached = {chosen};
  for (const Node& node : replay.graph().nodes) {
    const bool behind =
        std::ranges::any_of(node.inputs, [&](NodeId id) { return std::ranges::find(reached, id) != reached.end(); });
    if (!behind) continue;
    // The weights of two experts between which the choice is open are as good as equal: they tell nothing.
    if (replay.recording().Has(node.id) && !std::holds_alternative<ExpertWeightsOp>(node.op)) return node.id;
    reached.push_back(node.id);
  }
  return kAbsent;
}

double ErrorAt(const Replay& replay, NodeId target, const Value& replayed, std::int64_t token) {
  const auto recorded = replay.recording().At(target).value.row(token), row = replayed.row(token);
  double error = 0;
  for (std::size_t i = 0; i < row.size(); ++i) error += (recorded[i] - row[i]) * (recorded[i] - row[i]);
  return error;
}

// Tokens whose choice is open, with the choice that is predicted and the other one.
struct OpenChoice {
  std::int64_t token;
  Ids predicted, other;
};

std::vector<OpenChoice> OpenChoices(const Replay& replay, const Node& node) {
  const NodeId probs = node.inputs[0];
  const std::int64_t used = UsedBy(node);
  std::vector<OpenChoice> open;
  for (std::int64_t t = 0; t < replay.Exact(probs).rows(); ++t) {
    const auto seen = replay.recording().Has(probs) ? replay.Input(probs).row(t) : replay.Predicted(probs).row(t);
    if (!IsFinite(seen) || used >= static_cast<std::int64_t>(seen.size())) continue;
    const Ids ranked = TopOf(seen, used + 1);
    const double last = seen[static_cast<std::size_t>(ranked[static_cast<std::size_t>(used) - 1])],
                 next = seen[static_cast<std::size_t>(ranked.back())];
    if (last - next > NoiseAt(replay, probs, t)) continue;
    Ids predicted(ranked.begin(), ranked.end() - 1), other = predicted;
    other.back() = ranked.back();
    open.push_back({t, std::move(predicted), std::move(other)});
  }
  return open;
}

// The number added to every id that the probabilities choose, modulo the experts; 0 if there is no such number.
std::int64_t ShiftOf(const Replay& replay, const Node& node) {
  const RecordedSite& recorded = replay.recording().At(node.id);
  const std::int64_t experts = std::get<TopExpertsOp>(node.op).experts;
  for (std::int64_t shift = 1; shift < experts; ++shift) {
    bool fits = true;
    for (std::int64_t t = 0; t < recorded.value.rows() && fits; ++t) {
      const auto seen = replay.Input(node.inputs[0]).row(t);
      const auto chosen = IdsOf(recorded.value.row(t), experts);
      if (!recorded.token_known[static_cast<std::size_t>(t)] || !IsFinite(seen)) continue;
      if (!chosen) return 0;
      Ids back = *chosen;
      for (std::int64_t& id : back) id = (id + experts - shift) % experts;
      fits = SameSet(back, TopOf(seen, recorded.value.cols()));
    }
    if (fits) return shift;
  }
  return 0;
}

}  // namespace

SiteStats MeasureRouting(const Replay& replay, const Node& node, TokenRange range) {
  SiteStats stats;
  const RecordedSite& recorded = replay.recording().At(node.id);
  const NodeId probs = node.inputs[0];
  const std::int64_t experts = std::get<TopExpertsOp>(node.op).experts, used = UsedBy(node);
  stats.by_token.resize(recorded.token_known.size());
  for (std::int64_t t = range.begin; t < range.end; ++t) {
    if (!recorded.token_known[static_cast<std::size_t>(t)]) continue;
    const auto seen = replay.Input(probs).row(t);
    if (!IsFinite(seen)) {
      stats.unjudged += recorded.value.cols();
      continue;
    }
    ErrorSums& token = stats.by_token[static_cast<std::size_t>(t)];
    token.count = recorded.value.cols();
    const auto chosen = IdsOf(recorded.value.row(t), experts);
    const Ids right = TopOf(seen, used);
    if (!chosen || static_cast<std::int64_t>(chosen->size()) != used) {
      token.broken = token.count;
    } else if (const auto swap = WorstSwap(seen, right, *chosen)) {
      const bool benign = swap->margin <= NoiseAt(replay, probs, t);
      token.broken = benign ? 0 : token.count;
      stats.exact += benign ? token.count : token.count - static_cast<std::int64_t>(Without(*chosen, right).size());
    } else {
      stats.exact += token.count;
    }
    stats.all.count += token.count;
    stats.all.broken += token.broken;
  }
  stats.one_ulp = stats.exact;
  return stats;
}

bool WeighsTheRightExperts(const Replay& replay, const Node& node) {
  const NodeId probs = node.inputs[0], chosen = node.inputs[1];
  const auto& op = std::get<ExpertWeightsOp>(node.op);
  const auto& top = std::get<TopExpertsOp>(replay.graph().nodes[static_cast<std::size_t>(chosen)].op);
  const RecordedSite& recorded = replay.recording().At(node.id);
  const Value& seen = replay.Input(probs);
  const Value right = ComputeTopExperts(top, seen);
  const Node& choice = replay.graph().nodes[static_cast<std::size_t>(chosen)];
  const TokenRange all{0, replay.recording().run.count()};
  if (right.shape != recorded.value.shape || MeasureRouting(replay, choice, all).all.broken == 0) return false;
  Arithmetic arithmetic = replay.arithmetic();
  arithmetic.storage = StorageOf(node, arithmetic);
  const Value exact = ComputeExpertWeights(op, seen, right, *FindArithmetic("f64"));
  const Value rounded = ComputeExpertWeights(op, seen, right, arithmetic);
  const SiteStats stats = MeasureSite(replay.graph(), node, recorded, {exact, rounded, rounded}, nullptr,
                                      replay.arithmetic(), {0, replay.recording().run.count()});
  return !JudgeSize(stats).flagged;
}

Finding ExplainRouting(const Replay& replay, const Node& node, const SiteStats& stats) {
  const RecordedSite& recorded = replay.recording().At(node.id);
  const NodeId probs = node.inputs[0];
  const std::int64_t experts = std::get<TopExpertsOp>(node.op).experts, used = UsedBy(node),
                     found = recorded.value.cols();
  Finding finding;
  std::int64_t judged = 0, top = 0;
  double margin = 0;
  for (std::size_t t = 0; t < stats.by_token.size(); ++t) {
    if (stats.by_token[t].count == 0) continue;
    ++judged;
    if (stats.by_token[t].broken > 0) finding.where.tokens.push_back(static_cast<std::int64_t>(t));
    const auto seen = replay.Input(probs).row(static_cast<std::int64_t>(t));
    const auto chosen = IdsOf(recorded.value.row(static_cast<std::int64_t>(t)), experts);
    if (!chosen) continue;
    const auto swap = WorstSwap(seen, TopOf(seen, found), *chosen);
    top += !swap || swap->margin <= NoiseAt(replay, probs, static_cast<std::int64_t>(t)) ? 1 : 0;
    if (swap) margin = std::max(margin, swap->margin);
  }
  const std::size_t broken = finding.where.tokens.size();
  if (broken == static_cast<std::size_t>(judged)) finding.where.tokens.clear();
  if (found != used && top == judged) {
    finding.causes.push_back(
        {.id = "moe.top_k",
         .confidence = 0.99,
         .statement = fmt::format("{} experts a token are chosen where the model has {}", found, used),
         .fix = fmt::format("choose {} experts (num_experts_per_tok in the config)", used),
         .expected = used,
         .found = found});
    return finding;
  }
  if (const std::int64_t shift = found == used && finding.where.tokens.empty() ? ShiftOf(replay, node) : 0;
      shift != 0) {
    finding.causes.push_back(
        {.id = "moe.expert_order",
         .confidence = 0.99,
         .statement = fmt::format("every token goes to the expert {} behind the one that its router chooses", shift),
         .fix = "number the experts from 0, in the order of the router's rows",
         .expected = "i",
         .found = fmt::format("i + {}", shift)});
    return finding;
  }
  finding.causes.push_back(
      {.id = "unknown",
       .confidence = 0,
       .statement =
           fmt::format("{} of {} tokens go to experts that their own probabilities do not choose, by up to {:.2g}",
                       broken, judged, margin),
       .fix = "look at how the experts are picked from the router's probabilities"});
  return finding;
}

std::vector<RoutingFlip> FlipsOf(const Replay& replay, const Node& node) {
  std::vector<RoutingFlip> flips;
  const Recording& recording = replay.recording();
  const NodeId probs = node.inputs[0];
  const std::int64_t experts = std::get<TopExpertsOp>(node.op).experts;
  for (std::int64_t t = 0; t < replay.Free(probs).rows(); ++t) {
    const bool known = recording.Has(node.id) && recording.At(node.id).token_known[static_cast<std::size_t>(t)];
    const auto free = replay.Free(probs).row(t), seen = replay.Input(probs).row(t);
    if (!IsFinite(free) || !IsFinite(seen)) continue;
    const auto subject = IdsOf(known ? recording.At(node.id).value.row(t) : replay.Predicted(node.id).row(t), experts);
    const Ids reference = TopOf(free, UsedBy(node));
    if (!subject || SameSet(*subject, reference)) continue;
    RoutingFlip flip{
        .step = recording.StepOf(t), .layer = node.layer, .token = t, .reference = reference, .subject = *subject};
    const auto swap = WorstSwap(free, reference, *subject);
    if (swap) {
      const auto difference = [&](std::span<const double> row) {
        return row[static_cast<std::size_t>(swap->left_out)] - row[static_cast<std::size_t>(swap->taken)];
      };
      flip.margin = swap->margin;
      flip.error = std::fabs(difference(free) - difference(seen)) + NoiseAt(replay, probs, t);
    }
    // Whatever was inherited, the choice must be the one that the subject's own probabilities make.
    const auto own = WorstSwap(seen, TopOf(seen, UsedBy(node)), *subject);
    flip.benign = swap.has_value() && flip.margin <= flip.error && (!own || own->margin <= NoiseAt(replay, probs, t));
    flips.push_back(std::move(flip));
  }
  return flips;
}

NodeId SettleRouting(const Replay& replay, Graph& graph) {
  NodeId first = kAbsent;
  for (Node& node : graph.nodes) {
    if (!std::holds_alternative<TopExpertsOp>(node.op) || replay.recording().Has(node.id)) continue;
    const std::vector<OpenChoice> open = OpenChoices(replay, node);
    const NodeId target = open.empty() ? kAbsent : RecordedBehind(replay, node.id);
    if (target == kAbsent || IsScoreShaped(graph.nodes[static_cast<std::size_t>(target)])) continue;
    const auto with = [&](bool other) {
      Node changed = node;
      for (const OpenChoice& choice : open)
        std::get<TopExpertsOp>(changed.op).given.emplace_back(choice.token, other ? choice.other : choice.predicted);
      return replay.Evaluate(target, Replay::Pass::kPredicted, {{node.id, changed}});
    };
    const Value predicted = with(false), other = with(true);
    auto& given = std::get<TopExpertsOp>(node.op).given;
    for (const OpenChoice& choice : open) {
      const bool flipped =
          ErrorAt(replay, target, other, choice.token) < ErrorAt(replay, target, predicted, choice.token);
      given.emplace_back(choice.token, flipped ? choice.other : choice.predicted);
    }
    if (first == kAbsent) first = node.id;
  }
  return first;
}

}  // namespace paritrace
