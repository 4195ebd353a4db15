#include "diagnose/search.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <limits>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "diagnose/propose_factors.h"
#include "diagnose/sharpness.h"
#include "diagnose/unloaded.h"

namespace paritrace {
namespace {

constexpr std::array kProposers = {
    ProposeRope,       ProposeNorm,     ProposeAttention, ProposeSoftmax,  ProposePosition,  ProposeCache,
    ProposeShards,     ProposeUnloaded, ProposeMlp,       ProposeResidual, ProposeEmbed,     ProposeExperts,
    ProposeOrder,      ProposeHead,     ProposeBitNet,    ProposeLinear,   ProposePrecision, ProposeQuant,
    ProposeQuantInput, ProposeKernel,   ProposeCurve,     ProposePool};
// What a model may do wrongly in all its layers, or in all its norms.
constexpr std::array kEverywhere = {ProposeRope,     ProposeNorm,  ProposeAttention, ProposeSoftmax,
                                    ProposePosition, ProposeCache, ProposeShards,    ProposeMlp,
                                    ProposeResidual, ProposeOrder, ProposeBitNet,    ProposeLinear};
// Only mistakes that can be smaller than rounding are looked for below it.
constexpr std::array kQuietProposers = {ProposeNorm,   ProposeMlp,        ProposeRope,      ProposeAttention,
                                        ProposeBitNet, ProposeQuietCurve, ProposeQuietInput};
// Roundings hide below the noise where results are stored coarsely, and only there.
bool MayHide(const Replay& replay) {
  const Rounding storage = replay.arithmetic().storage;
  return storage == Rounding::kBF16 || storage == Rounding::kF16;
}

// A hypothesis is worth a full replay if it takes away at least half of the error.
constexpr double kWorthTrying = 0.5;
constexpr std::size_t kTried = 12;
// Two explanations whose leftovers differ by less cannot be told apart on this input.
constexpr double kTie = 1.5;
// An approximation is named where it leaves less than this share of what the exact function leaves, unless that is next to
// nothing: single roundings fall either way, and say nothing.
constexpr double kApproximates = 0.25, kNothing = 0.1;
// A mistake below the noise is named if chance would do so in fewer than one site of a million.
constexpr double kChance = 1e-6;
constexpr double kAboveOrder = 8;
// Clean runs of engines that are not emulated step by step stay within twice the floor (verdict.h). What leaves more is near
// the truth at best, and named without confidence.
constexpr double kLooseRatio = 2, kLooseConfidence = 0.4;

struct Outcome {
  Hypothesis hypothesis;
  double residual = 0;  // as predicted, over the flagged values
  SiteStats stats;      // with the edit, in `where`
  Scope where;
  bool accepted = false;
};

// `edited` inside the scope, `base` outside of it.
Value Splice(const Replay& replay, const Node& node, const Value& base, const Value& edited, const Scope& scope) {
  if (scope.everything()) return edited;
  Value out = base;
  ForEachWithin(replay.graph(), node, base, scope, [&](std::size_t i) { out.data[i] = edited.data[i]; });
  return out;
}

struct Passes {
  Value exact, predicted, sampled;
};

Passes EvaluateAll(const Replay& replay, NodeId target, const Edit& edit) {
  return {replay.Evaluate(target, Replay::Pass::kExact, edit), replay.Evaluate(target, Replay::Pass::kPredicted, edit),
          replay.Evaluate(target, Replay::Pass::kSampled, edit)};
}

SiteStats Measure(const Replay& replay, const Node& node, const Passes& passes) {
  return MeasureSite(replay.graph(), node, replay.recording().At(node.id),
                     {passes.exact, passes.predicted, passes.sampled}, nullptr, replay.arithmetic(),
                     {0, replay.recording().run.count()});
}

// The flagged tokens, heads and channels, each only where it is some and not all.
Scope FlaggedScope(const SiteStats& stats, const Flags& flags) {
  const auto some = [](const std::vector<std::int64_t>& flagged, const std::vector<ErrorSums>& groups) {
    const auto judged = std::ranges::count_if(groups, [](const ErrorSums& group) { return group.count > 0; });
    return flagged.size() < static_cast<std::size_t>(judged) ? flagged : std::vector<std::int64_t>();
  };
  return {some(flags.tokens, stats.by_token), some(flags.heads, stats.by_head), some(flags.channels, stats.by_channel)};
}

// The whole site first; a mistake made only in some tokens, heads or channels is tried with the clean rest left alone.
std::vector<Scope> ScopesOf(const Scope& flagged) {
  std::vector<Scope> scopes = {{}};
  if (!flagged.tokens.empty()) scopes.push_back({.tokens = flagged.tokens});
  if (!flagged.heads.empty()) scopes.push_back({.heads = flagged.heads});
  if (!flagged.tokens.empty() && !flagged.heads.empty())
    scopes.push_back({.tokens = flagged.tokens, .heads = flagged.heads});
  if (!flagged.channels.empty()) scopes.push_back({.channels = flagged.channels});
  return scopes;
}

// Where a hypothesis computes nothing finite the recording must hold the same: it may not explain values by hiding them.
bool Hides(const Replay& replay, const Node& node, const Passes& passes) {
  const RecordedSite& recorded = replay.recording().At(node.id);
  const Value& right = replay.Exact(node.id);
  if (passes.predicted.shape != right.shape) return false;
  bool hides = false;
  ForEachKnown(node, recorded, [&](std::size_t i) {
    const double x = recorded.value.data[i], p = passes.predicted.data[i];
    if (!std::isfinite(right.data[i]) || (std::isfinite(p) && std::isfinite(passes.exact.data[i]))) return;
    hides = hides || !(x == p || (std::isnan(x) && std::isnan(p)));
  });
  return hides;
}

void TryInScopes(const Replay& replay, const Node& node, const std::vector<Scope>& scopes, const SiteStats& before,
                 Outcome& outcome) {
  const Passes edited = EvaluateAll(replay, node.id, outcome.hypothesis.edit);
  for (const Scope& scope : scopes) {
    if (outcome.hypothesis.whole && !scope.everything()) continue;
    const Passes spliced = {Splice(replay, node, replay.Exact(node.id), edited.exact, scope),
                            Splice(replay, node, replay.Predicted(node.id), edited.predicted, scope),
                            Splice(replay, node, replay.Sampled(node.id), edited.sampled, scope)};
    outcome.stats = Measure(replay, node, spliced);
    outcome.where = scope;
    outcome.where.experts = outcome.hypothesis.experts;
    if (outcome.where.tokens.empty()) outcome.where.tokens = outcome.hypothesis.tokens;
    const bool fits = outcome.hypothesis.sharp
                          ? IsSharp(replay, node, replay.Predicted(node.id), spliced.predicted, before)
                          : !JudgeSize(outcome.stats).flagged;
    outcome.accepted = outcome.stats.all.count > 0 && fits && !Hides(replay, node, spliced);
    if (outcome.accepted) return;
  }
}

std::vector<Outcome> Weigh(const Replay& replay, NodeId target, const SearchSite& site, const SiteStats& stats,
                           const Scope& flagged, std::vector<Hypothesis> proposed) {
  const double before = site.Residual(site.base(), Replay::Pass::kPredicted);
  std::vector<Outcome> outcomes;
  for (Hypothesis& hypothesis : proposed) {
    const double residual = site.Residual(hypothesis.edit, Replay::Pass::kPredicted);
    if (residual < kWorthTrying * before)
      outcomes.push_back({.hypothesis = std::move(hypothesis), .residual = residual});
  }
  std::ranges::stable_sort(outcomes,
                           [](const Outcome& a, const Outcome& b) { return a.residual < b.residual * 0.999; });
  if (outcomes.size() > kTried) outcomes.resize(kTried);
  const std::vector<Scope> scopes = ScopesOf(flagged);
  const Node& node = replay.graph().nodes[static_cast<std::size_t>(target)];
  for (Outcome& outcome : outcomes) TryInScopes(replay, node, scopes, stats, outcome);
  return outcomes;
}

// The same mistake in several nodes of the segment, which no change of one of them explains.
void ProposeEverywhere(const Replay& replay, NodeId target, const Scope& scope, std::vector<Hypothesis>& out) {
  for (const Twins& twins : TwinsAmong(replay.graph(), replay.Segment(target))) {
    const SearchSite site(replay, target, scope, {}, twins);
    std::vector<Hypothesis> proposed;
    for (const Proposer propose : kEverywhere) propose(site, proposed);
    for (Hypothesis& hypothesis : proposed) {
      const bool spreads = std::ranges::any_of(hypothesis.edit, [&](const auto& entry) {
        return std::ranges::find(twins.leaders, entry.first) == twins.leaders.end();
      });
      if (!spreads) continue;
      hypothesis.statement += ", " + twins.where;
      hypothesis.whole = true;
      out.push_back(std::move(hypothesis));
    }
  }
}

std::vector<Outcome> Try(const Replay& replay, NodeId target, const SiteStats& stats, const Flags& flags,
                         const Edit& base) {
  const Scope flagged = FlaggedScope(stats, flags);
  // A mistake in a few channels would drown among those that are right.
  const bool few = 4 * flagged.channels.size() <= stats.by_channel.size();
  const SearchSite site(replay, target,
                        {.tokens = flagged.tokens,
                         .heads = flagged.heads,
                         .channels = few ? flagged.channels : std::vector<std::int64_t>()},
                        base);
  std::vector<Hypothesis> proposed;
  if (replay.Exact(target).shape == replay.recording().At(target).value.shape) {
    for (const Proposer propose : kProposers) propose(site, proposed);
    if (base.empty()) ProposeEverywhere(replay, target, flagged, proposed);
  } else {
    ProposePool(site, proposed);  // no other mistake changes a width
  }
  return Weigh(replay, target, site, stats, flagged, std::move(proposed));
}

// A number that was fitted may do the work of a factor elsewhere in the stretch: those are weighed against it.
void AddInnerFactors(const Replay& replay, NodeId target, const SiteStats& stats, const Flags& flags,
                     std::vector<Outcome>& outcomes) {
  if (replay.Exact(target).shape != replay.recording().At(target).value.shape) return;
  const Scope flagged = FlaggedScope(stats, flags);
  const SearchSite site(replay, target, {.tokens = flagged.tokens, .heads = flagged.heads});
  std::vector<Hypothesis> proposed;
  ProposeInnerFactors(site, proposed);
  std::ranges::move(Weigh(replay, target, site, stats, flagged, std::move(proposed)), std::back_inserter(outcomes));
}

// What is left of the error, with a share of what no prediction can know, so that two exact explanations tie.
double Leftover(const SiteStats& stats) { return std::sqrt(stats.left + 0.1 * stats.order); }

// The accepted outcome that stands, or nullptr: least left over; among ties the fewest fitted numbers, then what needs
// no part singled out, then the first proposed.
const Outcome* Best(const std::vector<Outcome>& outcomes) {
  const Outcome* best = nullptr;
  double least = 0;
  const auto is_exact = [](const Outcome& outcome) {
    return outcome.accepted && !outcome.hypothesis.last_resort && !outcome.hypothesis.approximates;
  };
  const bool explained = std::ranges::any_of(
      outcomes, [](const Outcome& outcome) { return outcome.accepted && !outcome.hypothesis.last_resort; });
  double exact = std::numeric_limits<double>::infinity();
  for (const Outcome& outcome : outcomes) {
    if (!is_exact(outcome)) continue;
    const bool leaves_nothing = outcome.stats.left <= kNothing * outcome.stats.all.floor();
    exact = std::min(exact, leaves_nothing ? 0.0 : Leftover(outcome.stats));
  }
  // Of a function and an approximation to it that both explain the values, the function stands.
  const auto counts = [explained, exact](const Outcome& outcome) {
    return outcome.accepted && !(explained && outcome.hypothesis.last_resort) &&
           !(outcome.hypothesis.approximates && !(Leftover(outcome.stats) < kApproximates * exact));
  };
  for (const Outcome& outcome : outcomes) {
    if (!counts(outcome)) continue;
    const double left = Leftover(outcome.stats);
    if (best == nullptr || left < least) {
      best = &outcome;
      least = left;
    }
  }
  if (best == nullptr) return nullptr;
  for (const Outcome& outcome : outcomes) {
    if (!counts(outcome) || Leftover(outcome.stats) > kTie * least + 1e-300) continue;
    // What explains the whole site goes before what explains only the part of it that is off.
    const auto order = [](const Outcome& each) {
      return std::pair(each.hypothesis.parameters, !each.where.everything());
    };
    if (order(outcome) < order(*best)) best = &outcome;
  }
  // Of the same cause with a fitted number, the one a person would have written comes first in the proposals.
  for (const Outcome& outcome : outcomes) {
    if (counts(outcome) && outcome.hypothesis.cause == best->hypothesis.cause && outcome.hypothesis.found.is_number() &&
        outcome.hypothesis.parameters <= best->hypothesis.parameters &&
        Leftover(outcome.stats) <= 1.05 * Leftover(best->stats) + 1e-300 &&
        outcome.hypothesis.found.dump().size() < best->hypothesis.found.dump().size()) {
      best = &outcome;
    }
  }
  return best;
}

NamedCause Name(const Hypothesis& hypothesis, double confidence) {
  return {hypothesis.cause, confidence, hypothesis.statement, hypothesis.fix, hypothesis.expected, hypothesis.found};
}

std::vector<const Outcome*> RivalsOf(const Outcome& best, const std::vector<Outcome>& outcomes) {
  std::vector<const Outcome*> rivals;
  for (const Outcome& outcome : outcomes) {
    if (outcome.hypothesis.approximates && !best.hypothesis.approximates) continue;
    if (!outcome.accepted || outcome.hypothesis.last_resort || outcome.hypothesis.cause == best.hypothesis.cause)
      continue;
    if (Leftover(outcome.stats) > kTie * Leftover(best.stats) + 1e-300) continue;
    const bool known = std::ranges::any_of(
        rivals, [&](const Outcome* rival) { return rival->hypothesis.cause == outcome.hypothesis.cause; });
    if (!known) rivals.push_back(&outcome);
  }
  return rivals;
}

// Brings the site near its noise, and leaves more than clean engines do.
bool IsLoose(const Outcome& best) {
  const double limit = SizeLimit(best.stats.all.count) / SizeLimit(std::numeric_limits<std::int64_t>::max());
  return best.hypothesis.parameters > 0 && !(best.stats.all.ratio() <= kLooseRatio * limit);
}

// The same mistake in another form, such as another activation, that explains as much.
const Outcome* OtherForm(const Outcome& best, const std::vector<Outcome>& outcomes) {
  for (const Outcome& outcome : outcomes) {
    if (outcome.accepted && outcome.hypothesis.cause == best.hypothesis.cause && outcome.hypothesis.found.is_string() &&
        outcome.hypothesis.found != best.hypothesis.found &&
        outcome.hypothesis.parameters <= best.hypothesis.parameters &&
        Leftover(outcome.stats) <= kTie * Leftover(best.stats) + 1e-300) {
      return &outcome;
    }
  }
  return nullptr;
}

// Another value of the fitted number that explains as much, and is not next to it; nullptr where the input determines it.
const Outcome* OtherValue(const Outcome& best, const std::vector<Outcome>& outcomes) {
  constexpr double kNextTo = 0.02, kAsMuch = 1.05;
  if (best.hypothesis.parameters == 0 || !best.hypothesis.found.is_number()) return nullptr;
  const double found = best.hypothesis.found.get<double>();
  for (const Outcome& outcome : outcomes) {
    if (!outcome.accepted || outcome.hypothesis.cause != best.hypothesis.cause ||
        outcome.hypothesis.parameters > best.hypothesis.parameters || !outcome.hypothesis.found.is_number())
      continue;
    if (std::fabs(outcome.hypothesis.found.get<double>() - found) > kNextTo * std::fabs(found) &&
        Leftover(outcome.stats) <= kAsMuch * Leftover(best.stats) + 1e-300)
      return &outcome;
  }
  return nullptr;
}

Finding FromBest(const Outcome& best, const std::vector<Outcome>& outcomes, std::size_t stretch = 1) {
  const std::vector<const Outcome*> rivals = RivalsOf(best, outcomes);
  // A fitted number that could absorb the effect is a weaker rival than another mistake without any.
  const bool tied = std::ranges::any_of(
      rivals, [&](const Outcome* rival) { return rival->hypothesis.parameters <= best.hypothesis.parameters; });
  Finding finding{.causes = {Name(best.hypothesis, tied ? 0.99 / (1.0 + static_cast<double>(rivals.size())) : 0.99)},
                  .where = best.where,
                  .edit = best.hypothesis.edit};
  for (const Outcome& other : outcomes) {
    if (!best.hypothesis.sharp || !other.hypothesis.sharp || !other.accepted || &other == &best) continue;
    if (other.hypothesis.found == best.hypothesis.found) continue;
    if (Leftover(other.stats) > 1.001 * Leftover(best.stats) + 1e-300) continue;
    finding.causes[0].statement +=
        fmt::format("; on this input {} would give the same", other.hypothesis.found.get<std::string>());
    break;
  }
  for (const Outcome* rival : rivals) {
    finding.alternatives.push_back({rival->hypothesis.cause, tied ? finding.causes[0].confidence : 0.01});
  }
  if (tied) {
    finding.alternatives.insert(finding.alternatives.begin(), {best.hypothesis.cause, finding.causes[0].confidence});
    finding.causes[0].statement +=
        fmt::format("; this input cannot tell it from {}: {}", rivals[0]->hypothesis.cause,
                    stretch > 1 ? "record the sites between" : "use a longer prompt with other tokens");
  }
  if (const Outcome* other = best.hypothesis.sharp ? nullptr : OtherForm(best, outcomes)) {
    finding.causes[0].confidence = std::min(finding.causes[0].confidence, kLooseConfidence);
    finding.causes[0].statement += fmt::format("; {} explains as much", other->hypothesis.found.dump());
  }
  if (const Outcome* other = OtherValue(best, outcomes)) {
    finding.causes[0].confidence = std::min(finding.causes[0].confidence, kLooseConfidence);
    finding.causes[0].statement +=
        fmt::format("; {:g} explains as much: more tokens would tell", other->hypothesis.found.get<double>());
  }
  if (best.hypothesis.parameters > 0 && stretch > kLongestStretch) {
    finding.causes[0].confidence = std::min(finding.causes[0].confidence, kLooseConfidence);
    finding.causes[0].statement += "; over so many steps other mistakes look alike: record the sites between";
  }
  if (IsLoose(best)) {
    finding.causes[0].confidence = std::min(finding.causes[0].confidence, kLooseConfidence);
    finding.causes[0].statement +=
        fmt::format("; {:.2g} times the noise is left, so it may only look like that", best.stats.all.ratio());
  }
  return finding;
}

// Two mistakes in one op: the most promising first ones, each with every second one on top.
std::optional<Finding> ExplainByTwo(const Replay& replay, NodeId target, const SiteStats& stats, const Flags& flags,
                                    const std::vector<Outcome>& first) {
  constexpr std::size_t kFirsts = 4;
  for (std::size_t i = 0; i < std::min(kFirsts, first.size()); ++i) {
    const Hypothesis& one = first[i].hypothesis;
    const std::vector<Outcome> second = Try(replay, target, stats, flags, one.edit);
    const Outcome* best = Best(second);
    if (best == nullptr || best->hypothesis.cause == one.cause) continue;
    return Finding{
        .causes = {Name(one, 0.9), Name(best->hypothesis, 0.9)}, .where = best->where, .edit = best->hypothesis.edit};
  }
  return std::nullopt;
}

std::optional<Finding> ExplainByLoading(const Replay& replay, NodeId target) {
  const std::optional<UnloadedWeight> unloaded = FindUnloaded(replay, target);
  if (!unloaded) return std::nullopt;
  NamedCause cause{.id = "weights.unloaded",
                   .confidence = unloaded->confidence,
                   .statement = unloaded->statement,
                   .fix = "make the loader fail on names that it does not find",
                   .expected = "the file's weight",
                   .found = unloaded->found};
  Finding finding{.causes = {cause}, .edit = unloaded->edit};
  if (!unloaded->tied_head) return finding;
  // A head of the subject's own, which is in no file of MODEL, gives the same picture.
  finding.causes[0].id = "head.tied";
  finding.causes[0].confidence = 0.5;
  finding.causes[0].statement +=
      ", or the head is one of its own where the config ties it to the embedding; the subject's file would tell";
  finding.causes[0].fix = "use the embedding as the head";
  finding.alternatives = {{"head.tied", 0.5}, {"weights.unloaded", 0.5}};
  return finding;
}

Finding Unknown(const Replay& replay, NodeId target, const SiteStats& stats, const Flags& flags,
                const std::vector<Outcome>& tried) {
  const Scope flagged = FlaggedScope(stats, flags);
  const SearchSite site(replay, target, flagged);
  NamedCause cause{.id = "unknown", .confidence = 0.0};
  const double size = site.Residual({});
  cause.statement =
      stats.all.broken > 0
          ? fmt::format("{} of {} values are masked on one side only or not finite, and no known mistake explains them",
                        stats.all.broken, stats.all.count)
          : fmt::format(
                "the error is {:.2g} of the output, {:.3g} times the noise, and no known mistake explains it; the best "
                "fit is {:.4g} times the replay",
                size, stats.all.ratio(), site.BestFactor({}));
  cause.fix = "look at this op with the recorded inputs; its replay in f64 is what it should give";
  Finding finding{.causes = {cause}, .where = flagged};
  for (const Outcome& outcome : tried) {
    if (finding.alternatives.size() == 3) break;
    finding.alternatives.push_back({outcome.hypothesis.cause, 0.05});
  }
  return finding;
}

// A constant that is kept in the type of the tensors it meets is a rounding, and no other constant.
bool IsRoundedConstant(const Hypothesis& hypothesis, Rounding storage) {
  if (!hypothesis.expected.is_number() || !hypothesis.found.is_number()) return false;
  const double expected = hypothesis.expected.get<double>(), kept = Round(storage, expected);
  return std::fabs(hypothesis.found.get<double>() - kept) < 0.5 * std::fabs(expected - kept);
}

// How far a mistake moves the values before they are rounded, against the roundings inside the op: a row's f32 mean or sum. A
// value misses the prediction where it lies next to a rounding boundary, and that is where any small change moves it:
// of those that the mistake moves, this share may miss by the inner roundings alone.
double ShareWithinInnerNoise(const Replay& replay, NodeId target, const Edit& edit) {
  const Value &right = replay.Exact(target), wrong = replay.Evaluate(target, Replay::Pass::kExact, edit);
  double moved = 0, signal = 0;
  for (std::size_t i = 0; i < right.data.size(); ++i) {
    if (!std::isfinite(right.data[i]) || !std::isfinite(wrong.data[i])) continue;
    moved += (wrong.data[i] - right.data[i]) * (wrong.data[i] - right.data[i]);
    signal += right.data[i] * right.data[i];
  }
  const double inner = std::sqrt(static_cast<double>(right.cols()) * signal) * HalfUlp(Rounding::kF32, 1.0);
  return moved == 0 ? 1.0 : std::min(1.0, inner / std::sqrt(moved));
}

}  // namespace

Finding ExplainFlagged(const Replay& replay, NodeId target, const SiteStats& stats, const Flags& flags) {
  std::vector<Outcome> outcomes = Try(replay, target, stats, flags, {});
  const Outcome* best = Best(outcomes);
  if (best == nullptr || best->hypothesis.parameters > 0 || best->hypothesis.last_resort) {
    AddInnerFactors(replay, target, stats, flags, outcomes);
    best = Best(outcomes);
  }
  if (best != nullptr) return FromBest(*best, outcomes, replay.Segment(target).size());
  if (auto pair = ExplainByTwo(replay, target, stats, flags, outcomes)) return *pair;
  if (auto unloaded = ExplainByLoading(replay, target)) return *unloaded;
  return Unknown(replay, target, stats, flags, outcomes);
}

Finding ExplainQuiet(const Replay& replay, NodeId target, const SiteStats& stats) {
  const Node& node = replay.graph().nodes[static_cast<std::size_t>(target)];
  const RecordedSite& recorded = replay.recording().At(target);
  const Value& right = replay.Predicted(target);
  const SearchSite site(replay, target, {});
  std::vector<Hypothesis> proposed;
  // Clean engines stay below this ratio: what makes a site worse may be any mistake that is small.
  const bool suspicious = stats.all.ratio() > kLooseRatio;
  if (suspicious) {
    for (const Proposer propose : kProposers) propose(site, proposed);
  } else {
    for (const Proposer propose : kQuietProposers) propose(site, proposed);
    if (MayHide(replay)) ProposePrecision(site, proposed);
  }
  std::vector<Outcome> outcomes;
  for (Hypothesis& hypothesis : proposed) {
    if (IsRoundedConstant(hypothesis, StorageOf(node, replay.arithmetic()))) continue;
    const Value wrong = replay.Evaluate(target, Replay::Pass::kPredicted, hypothesis.edit);
    if (wrong.shape != right.shape || right.shape != recorded.value.shape) continue;
    std::int64_t wins = 0, losses = 0, compared = 0;
    double along = 0, square = 0, left = 0;
    ForEachKnown(node, recorded, [&](std::size_t i) {
      const double x = recorded.value.data[i], p = right.data[i], h = wrong.data[i];
      if (!std::isfinite(x) || !std::isfinite(p) || !std::isfinite(h)) {
        losses += std::isfinite(p) != std::isfinite(h) ? 1000 : 0;
        return;
      }
      ++compared;
      left += (x - h) * (x - h);
      if (h == p) return;
      along += (x - p) * (h - p);
      square += (h - p) * (h - p);
      (std::fabs(x - h) < std::fabs(x - p) ? wins : losses) += 1;
    });
    // The matched filter: the recorded values sit where the mistake predicts them, value by value (alpha near 1), and little
    // is left. In a clean run a value that misses the prediction falls anywhere: that `wins` of them all fall on the places
    // where this mistake moves the prediction, and in its direction, has the chance below, for each mistake that is tried.
    const double place =
        static_cast<double>(wins + losses) / (2.0 * static_cast<double>(std::max<std::int64_t>(compared, 1)));
    const auto chance_of = [&](double share) {
      return std::pow(share, static_cast<double>(wins)) * static_cast<double>(proposed.size());
    };
    const double chance = chance_of(place);
    // Where results are stored in f32, a whole row shares the rounding of its mean or its sum, which no chance of single
    // values describes: there the mistake must stand well above what the order of summation leaves.
    const bool above_order =
        StorageOf(node, replay.arithmetic()) != Rounding::kF32 || square >= kAboveOrder * kAboveOrder * stats.order;
    // A mistake that is nearly all of the error may come with roundings of its own, which tip some values the other way.
    const bool takes_most = suspicious && left <= 0.1 * stats.left && 3 * losses <= wins;
    const bool decisive = above_order && wins > 0 && chance < kChance && (10 * losses <= wins || takes_most) &&
                          square > 0 && std::fabs(along / square - 1) <= 0.1 && left <= 0.25 * stats.left;
    if (!decisive || (hypothesis.sharp && !IsSharp(replay, node, right, wrong, stats))) continue;
    const double near = ShareWithinInnerNoise(replay, target, hypothesis.edit) / 2;  // and half of them the other way
    if (StorageOf(node, replay.arithmetic()) != Rounding::kF32 && !(chance_of(std::max(place, near)) < kChance))
      continue;
    Outcome outcome{.hypothesis = std::move(hypothesis), .accepted = true};
    outcome.stats = Measure(replay, node, EvaluateAll(replay, target, outcome.hypothesis.edit));
    outcomes.push_back(std::move(outcome));
  }
  const Outcome* best = Best(outcomes);
  if (best == nullptr) return {};
  const std::size_t stretch = replay.Segment(target).size();
  Finding finding = FromBest(*best, outcomes, stretch);
  // Some flipped roundings show that a number is off, and not in which of several steps.
  if (best->hypothesis.parameters > 0 && stretch > 1 && finding.causes[0].confidence > kLooseConfidence) {
    finding.causes[0].confidence = kLooseConfidence;
    finding.causes[0].statement += "; below the noise other steps look alike: record the sites between";
  }
  return finding;
}

}  // namespace paritrace
