#include "diagnose/diagnosis.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include <fmt/format.h>

#include "core/error.h"
#include "diagnose/counterfactual.h"
#include "diagnose/other_model.h"
#include "diagnose/policy.h"
#include "diagnose/relabel.h"
#include "diagnose/row_order.h"
#include "diagnose/side.h"

namespace paritrace {

// A step of the pooling that was recorded is the site's, whatever follows in MODEL.
std::string SiteNameOf(const std::string& site) { return site.starts_with(".pooled.") ? "pooled" : site; }

NoiseRow RowOf(const SiteStats& stats, int step, const std::string& site) {
  return {.step = step,
          .site = SiteNameOf(site),
          .introduced_nmse = stats.introduced_nmse(),
          .floor_nmse = stats.floor_nmse(),
          .ratio = stats.all.ratio(),
          .left_nmse = stats.left_nmse(),
          .exact = stats.exact_share(),
          .one_ulp = stats.one_ulp_share(),
          .propagated_nmse = stats.propagated_nmse(),
          .values = stats.all.count,
          .judged = stats.all.count > 0};
}

Defect DefectOf(const Replay& replay, const Node& node, const SiteStats& stats, const Finding& finding,
                const NamedCause& cause, std::string_view side) {
  const Recording& recording = replay.recording();
  Defect defect{.side = std::string(side),
                .site = SiteNameOf(node.site),
                .ratio = stats.all.ratio(),
                .introduced_nmse = stats.introduced_nmse(),
                .cause = cause,
                .alternatives = finding.alternatives,
                .where = finding.where};
  for (const NodeId input : replay.SegmentInputs(node.id))
    defect.inputs.push_back(replay.graph().nodes[static_cast<std::size_t>(input)].site);
  defect.step = recording.steps.empty() ? 0 : recording.steps[0].step;
  if (!finding.where.tokens.empty()) defect.step = recording.StepOf(finding.where.tokens[0]);
  return defect;
}

namespace {

// A site within a range of tokens: chosen experts as choices, all else as values.
SiteStats StatsOf(const Replay& replay, const Node& node, TokenRange range, std::vector<ErrorSums>* by_cell = nullptr) {
  if (std::holds_alternative<TopExpertsOp>(node.op)) return MeasureRouting(replay, node, range);
  return MeasureSite(replay.graph(), node, replay.recording().At(node.id),
                     {replay.Exact(node.id), replay.Predicted(node.id), replay.Sampled(node.id)}, &replay.Free(node.id),
                     replay.arithmetic(), range, by_cell);
}

void MeasureNoise(const Replay& replay, const Node& node, const SiteStats& all, SideResult& side) {
  const Recording& recording = replay.recording();
  if (recording.steps.size() == 1) {
    side.noise.push_back(RowOf(all, recording.steps[0].step, node.site));
    return;
  }
  for (const TraceStep& step : recording.steps) {
    const SiteStats stats = StatsOf(replay, node, {step.start, step.start + step.count});
    if (stats.all.count + stats.unjudged > 0) side.noise.push_back(RowOf(stats, step.step, node.site));
  }
}

}  // namespace

void JudgeSite(const Replay& replay, const Node& node, std::string_view side_name, SideResult& side) {
  std::vector<ErrorSums> cells;
  const SiteStats stats =
      StatsOf(replay, node, {0, replay.recording().run.count()}, side.view_limits ? &cells : nullptr);
  MeasureNoise(replay, node, stats, side);
  side.values += stats.all.count;
  side.exact += stats.exact;
  side.one_ulp += stats.one_ulp;
  side.error += stats.all.error;
  if (side.view_limits && !std::holds_alternative<TopExpertsOp>(node.op)) {
    side.views.push_back(
        MakeSiteView(node, replay.recording().At(node.id), replay.Exact(node.id), stats, cells, *side.view_limits));
  }
  if (stats.all.count == 0) return;  // its inputs are not finite: it cannot be judged, and is not blamed
  const Flags flags = JudgeSize(stats);
  Finding finding;
  if (std::holds_alternative<TopExpertsOp>(node.op)) {
    if (stats.all.broken > 0) finding = ExplainRouting(replay, node, stats);
  } else if (flags.flagged && std::holds_alternative<ExpertWeightsOp>(node.op) &&
             replay.recording().Has(node.inputs[1]) && WeighsTheRightExperts(replay, node)) {
    return;  // right for the experts that were to be chosen: the choice is blamed, not they
  } else if (flags.flagged) {
    finding = ExplainFlagged(replay, node.id, stats, flags);
  } else if (node.doubt == 0 && !IsExplained(stats, StorageOf(node, replay.arithmetic()))) {
    finding = ExplainQuiet(replay, node.id, stats);
  }
  for (const NamedCause& cause : finding.causes)
    side.defects.emplace_back(DefectOf(replay, node, stats, finding, cause, side_name), node.id);
  if (finding.causes.empty()) {
    side.healthy.emplace(node.id, stats);
  } else {
    side.all_named = side.all_named && !finding.edit.empty() && finding.where.everything();
    side.edits.push_back(finding.edit);
  }
}

namespace {

std::string LayerPrefix(const std::string& site) {
  const std::size_t dot = site.rfind("attn.");
  return dot == std::string::npos ? "" : site.substr(0, dot);
}

const Defect* FindDefect(const SideResult& side, const std::string& site) {
  for (const auto& [defect, node] : side.defects) {
    if (defect.site == site) return &defect;
  }
  return nullptr;
}

// A rotation that is wrong for k alone has a name of its own.
void NameKeyOnlyMistakes(const Graph& graph, SideResult& side) {
  for (auto& [defect, node] : side.defects) {
    if (!defect.site.ends_with("attn.k_rope") || defect.cause.id != "rope.missing") continue;
    const std::string q_site = LayerPrefix(defect.site) + "attn.q_rope";
    const Node* q = graph.Find(q_site);
    if (q == nullptr || !side.recording.Has(q->id) || FindDefect(side, q_site) != nullptr) continue;
    defect.cause.id = "rope.k_missing";
    defect.cause.statement = "RoPE is applied to q and not to k";
  }
}

// A norm before the sum shows twice: as a sum without the stream, and as a next layer that begins with more than the norm.
void NameNormsBeforeTheSum(SideResult& side) {
  for (auto sum = side.defects.begin(); sum != side.defects.end(); ++sum) {
    if (sum->first.cause.id != "residual.missing") continue;
    const auto order = std::find_if(sum, side.defects.end(), [&](const auto& entry) {
      return entry.first.cause.id == "norm.order" && entry.first.site.ends_with(".in");
    });
    if (order == side.defects.end()) continue;
    sum->first.cause = order->first.cause;
    side.defects.erase(order);
  }
}

// q and k turned by the same extra angle: only differences of positions enter the scores, so no output can change.
void MoveShiftedPositions(const Graph& graph, SideResult& side) {
  if (graph.depends_on_absolute_position) return;
  std::set<std::string> moved;
  for (const auto& [defect, node] : side.defects) {
    if (!defect.site.ends_with("attn.q_rope") || defect.cause.id != "rope.position_offset" ||
        !defect.where.tokens.empty() || !defect.where.heads.empty())
      continue;
    const Defect* twin = FindDefect(side, LayerPrefix(defect.site) + "attn.k_rope");
    if (twin == nullptr || twin->cause.id != defect.cause.id || twin->cause.found != defect.cause.found ||
        !twin->where.tokens.empty() || !twin->where.heads.empty())
      continue;
    side.equivalences.push_back({defect.site, fmt::format("RoPE positions of q and k are both shifted by {}: only "
                                                          "their difference enters the scores, so no output changes",
                                                          defect.cause.found.dump())});
    moved.insert(defect.site);
    moved.insert(twin->site);
  }
  std::erase_if(side.defects, [&](const auto& entry) { return moved.contains(entry.first.site); });
}

}  // namespace

void NameTogether(const Graph& graph, SideResult& side) {
  NameKeyOnlyMistakes(graph, side);
  NameNormsBeforeTheSum(side);
  MergeMasksAfterSoftmax(side.defects);
  NameOtherSchedules(side.recording, side.defects);
  MoveShiftedPositions(graph, side);
}

namespace {

// counterfactual: whether the run with all named mistakes built in is asked for.
SideResult Judge(const Model& model, const Trace& trace, const DiagnoseOptions& options, std::string_view side_name,
                 bool counterfactual) {
  SideResult side;
  side.recording = AssembleRecording(trace, model.graph);
  if (std::string remark = AlignRowOrder(model.graph, side.recording); !remark.empty())
    side.remarks.push_back(std::move(remark));
  if (!side.recording.token_remark.empty()) side.remarks.push_back(side.recording.token_remark);
  if (!trace.header.complete)
    side.remarks.push_back("the trace is still open: only what was recorded so far is judged");
  if (!side.recording.unknown_sites.empty()) {
    side.remarks.push_back(fmt::format("{} recorded site(s) are not part of MODEL and were left alone, such as {}",
                                       side.recording.unknown_sites.size(), side.recording.unknown_sites[0]));
  }
  if (options.keep_views) side.view_limits = LimitsFor(side.recording.recorded_count);
  side.chosen = ChooseArithmetic(options.arithmetic, trace, side.recording, model.graph);
  if (!side.chosen.remark.empty()) side.remarks.push_back(side.chosen.remark);
  if (!model.source->is_gguf()) ChooseDotWeight(model.graph, side.recording, side.chosen.arithmetic);
  Graph graph = model.graph;  // open choices of experts are written into it
  // Its values are not kept beside those of the counterfactual run.
  {
    Replay replay(graph, side.recording, side.chosen.arithmetic);
    replay.Run(options.progress);
    RefuseBrokenWeights(model, replay);
    RefuseOtherModel(replay, trace.path);
    if (const NodeId first = SettleRouting(replay, graph); first != kAbsent)
      replay.Run(options.progress, kAbsent, first);
    for (const Node& node : graph.nodes) {
      if (side.recording.Has(node.id)) JudgeSite(replay, node, side_name, side);
      if (std::holds_alternative<TopExpertsOp>(node.op))
        std::ranges::copy(FlipsOf(replay, node), std::back_inserter(side.routing));
    }
  }
  NameTogether(model.graph, side);
  // A choice of experts may tip on the way and change all that follows: with mixtures nothing can be said.
  const bool routed =
      std::ranges::any_of(graph.nodes, [](const Node& node) { return std::holds_alternative<TopExpertsOp>(node.op); });
  if (counterfactual && !side.defects.empty() && side.all_named && !routed) {
    side.counterfactual = StatementOf(RunCounterfactual(graph, side.recording, side.chosen.arithmetic, side.edits),
                                      graph, side.defects.size());
  }
  return side;
}

struct Family {
  std::string_view name;
  std::vector<std::string_view> endings;
};

const std::array<Family, 10>& Families() {
  static const std::array<Family, 10> families = {{
      {"token embedding", {"embed"}},
      {"norms", {"norm"}},
      {"projections (weights, biases, their quantisation)",
       {"attn.q", "attn.k", "attn.v", "attn.out", "mlp.gate", "mlp.up", "mlp.out"}},
      {"mixture of experts", {"moe.router_logits", "moe.probs", "moe.experts", "moe.weights", "moe.out"}},
      {"RoPE", {"q_rope", "k_rope"}},
      {"attention scores, mask and softmax", {"scores", "probs", "ctx"}},
      {"activation", {"mlp.act"}},
      {"residual sums", {"residual", ".in", ".out"}},
      {"head", {"logits"}},
      {"pooling", {"pooled"}},
  }};
  return families;
}

const Family* FamilyOf(const std::string& site) {
  for (const Family& family : Families()) {
    if (std::ranges::any_of(family.endings, [&](std::string_view ending) { return site.ends_with(ending); }))
      return &family;
  }
  return nullptr;
}

}  // namespace

std::vector<Note> ClearedBy(const Graph& graph, const SideResult& side) {
  std::vector<Note> notes;
  for (const Family& family : Families()) {
    std::int64_t sites = 0, values = 0, exact = 0;
    double worst = 0, left = 0;
    for (const auto& [id, stats] : side.healthy) {
      if (FamilyOf(graph.nodes[static_cast<std::size_t>(id)].site) != &family) continue;
      ++sites;
      values += stats.all.count;
      exact += stats.exact;
      worst = std::max(worst, stats.all.ratio());
      left = std::max(left, stats.left_nmse());
    }
    std::set<std::string> faulty;
    for (const auto& [defect, id] : side.defects) {
      if (FamilyOf(defect.site) == &family) faulty.insert(defect.site);
    }
    if (sites == 0) continue;
    notes.push_back(
        {std::string(family.name),
         fmt::format("{} site{} within noise{}; error at most {:.2f} of the floor, {:.2f} % of the values explained to "
                     "the bit, {:.1e} of the output left",
                     sites, sites == 1 ? "" : "s",
                     faulty.empty() ? "" : fmt::format(" (beside {} named above)", faulty.size()), worst,
                     100.0 * static_cast<double>(exact) / static_cast<double>(std::max<std::int64_t>(values, 1)),
                     std::sqrt(left))});
  }
  return notes;
}

namespace {

// Flips of routing that are no defect, as a note: what they are, and why they do not count.
void NoteBenignFlips(Diagnosis& diagnosis) {
  std::int64_t benign = 0;
  double margin = 0;
  for (const RoutingFlip& flip : diagnosis.routing) {
    if (!flip.benign) continue;
    ++benign;
    margin = std::max(margin, flip.margin);
  }
  if (benign == 0) return;
  diagnosis.cleared.push_back(
      {"choices of experts",
       fmt::format("{} token{} to other experts than in f64, each by less than the error that reached its router (by "
                   "up to {:.2g} in "
                   "probability): benign, and what follows was replayed with the subject's experts",
                   benign, benign == 1 ? " goes" : "s go", margin)});
}

}  // namespace

Diagnosis Diagnose(const Model& model, const Trace& subject, const DiagnoseOptions& options) {
  return ToDiagnosis(model.graph, subject, Judge(model, subject, options, "subject", /*counterfactual=*/true));
}

Diagnosis ToDiagnosis(const Graph& graph, const Trace& subject, SideResult side) {
  Diagnosis diagnosis{.arithmetic = side.chosen.arithmetic.name, .arithmetic_inferred = side.chosen.inferred};
  diagnosis.cleared = ClearedBy(graph, side);
  diagnosis.layout = LayoutOf(graph, side.recording);
  for (auto& [defect, node] : side.defects) diagnosis.defects.push_back(std::move(defect));
  diagnosis.noise = std::move(side.noise);
  diagnosis.equivalences = std::move(side.equivalences);
  diagnosis.routing = std::move(side.routing);
  diagnosis.views = std::move(side.views);
  NoteBenignFlips(diagnosis);
  diagnosis.remarks = std::move(side.remarks);
  diagnosis.counterfactual = std::move(side.counterfactual);
  diagnosis.values = side.values;
  const auto values = static_cast<double>(std::max<std::int64_t>(side.values, 1));
  diagnosis.exact = static_cast<double>(side.exact) / values;
  diagnosis.one_ulp = static_cast<double>(side.one_ulp) / values;
  diagnosis.subject_header = subject.header.raw;
  diagnosis.verdict = !diagnosis.defects.empty()                          ? "diverged"
                      : side.error == 0 && diagnosis.equivalences.empty() ? "identical"
                                                                          : "within_noise";
  return diagnosis;
}

void TellConversionFromExecution(const Model& subject_model, const Trace& subject, const DiagnoseOptions& options,
                                 Diagnosis& diagnosis) {
  DiagnoseOptions without_views = options;
  without_views.keep_views = false;
  const SideResult own = Judge(subject_model, subject, without_views, "subject", /*counterfactual=*/false);
  std::set<std::string> executed;
  for (const auto& [defect, node] : own.defects) executed.insert(defect.site);
  for (Defect& defect : diagnosis.defects) {
    if (defect.side != "subject") continue;
    defect.origin = executed.contains(defect.site) ? "execution" : "conversion";
    defect.cause.statement +=
        defect.origin == "conversion"
            ? "; the engine computes its own file rightly, so the mistake is in the file: it was made in the conversion"
            : "; the engine departs from its own file too, so the mistake is in the engine";
  }
  if (own.defects.empty())
    diagnosis.remarks.push_back(
        fmt::format("against the file the subject ran, {}, everything is within noise", subject_model.source->path()));
}

void AddTokenMismatch(const TokenMismatch& mismatch, Diagnosis& diagnosis) {
  diagnosis.tokens = mismatch;
  diagnosis.verdict = "incomparable";
  diagnosis.reason = mismatch.statement;
  Defect defect{.side = "subject", .site = "embed"};
  defect.ratio = std::numeric_limits<double>::infinity();
  defect.where.tokens = {mismatch.position};
  defect.cause = {.id = mismatch.cause,
                  .confidence = 0.99,
                  .statement = mismatch.statement,
                  .fix = mismatch.cause == "tokens.ids"
                             ? "feed both engines the same token ids; look at the tokenizer and its normalisation"
                             : "add BOS and padding once, in one place, on both sides alike"};
  if (mismatch.reference && mismatch.subject) {
    defect.cause.expected = *mismatch.reference;
    defect.cause.found = *mismatch.subject;
  }
  diagnosis.defects.insert(diagnosis.defects.begin(), std::move(defect));
}

void AddReference(const Model& model, const Trace& reference, const DiagnoseOptions& options, Diagnosis& diagnosis) {
  DiagnoseOptions own = options;
  own.arithmetic.clear();  // the user's choice is about the subject
  own.keep_views = false;
  SideResult side = Judge(model, reference, own, "reference", /*counterfactual=*/false);
  for (auto& [defect, node] : side.defects) diagnosis.defects.push_back(std::move(defect));
  for (std::string& remark : side.remarks) diagnosis.remarks.push_back("reference: " + remark);
  diagnosis.reference_header = reference.header.raw;
  if (!diagnosis.defects.empty() && diagnosis.verdict != "incomparable") diagnosis.verdict = "diverged";
}

}  // namespace paritrace
