#include "diagnose/without_weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <set>

#include <fmt/format.h>

#include "compare/align.h"
#include "compare/growth.h"
#include "core/error.h"
#include "diagnose/fit_reference.h"
#include "diagnose/inferred_graph.h"
#include "diagnose/name_product.h"
#include "diagnose/policy.h"
#include "diagnose/side.h"

namespace paritrace {
namespace {

constexpr std::array<std::string_view, 4> kReordered = {"attn.q", "attn.k", "attn.q_rope", "attn.k_rope"};

double SquaredDistance(const RecordedSite& a, const Value& b) {
  double sum = 0;
  for (std::int64_t t = 0; t < std::min(a.value.rows(), b.rows()); ++t) {
    for (std::size_t c = 0; c < a.value.row(t).size(); ++c) {
      const double e = a.value.row(t)[c] - b.row(t)[c];
      sum += std::isfinite(e) ? e * e : 0;
    }
  }
  return sum;
}

// As AlignRowOrder does with weights: decided once, at the first projections that both recorded.
std::string AlignToReference(const Graph& graph, const Recording& reference, Recording& subject,
                             const TraceHeader& ours, const TraceHeader& theirs) {
  constexpr double kDecisive = 0.01;
  for (int layer = 0; layer < graph.layers; ++layer) {
    const Node* q = graph.Find(fmt::format("layers.{}.attn.q", layer));
    if (q == nullptr || !reference.Has(q->id) || !subject.Has(q->id)) continue;
    if (graph.head_dim == 0 || !RowOrderMayDiffer(q->site, ours, theirs)) return "";
    for (const bool to_interleaved : {true, false}) {
      Value reordered = subject.At(q->id).value;
      ReorderHeads(reordered, graph.head_dim, to_interleaved);
      if (!(SquaredDistance(reference.At(q->id), reordered) <
            kDecisive * SquaredDistance(reference.At(q->id), subject.At(q->id).value)))
        continue;
      for (const Node& node : graph.nodes) {
        const bool moves = std::ranges::any_of(
            kReordered, [&](std::string_view role) { return node.site.ends_with(fmt::format(".{}", role)); });
        if (moves && subject.Has(node.id))
          ReorderHeads(subject.sites[static_cast<std::size_t>(node.id)]->value, graph.head_dim, to_interleaved);
      }
      return "q and k of the two traces stand in other row orders: the subject's were reordered before comparing";
    }
    return "";
  }
  return "";
}

// Why sites could not be judged, with the sites.
struct Unproven {
  std::vector<std::string> inputs_differ, inputs_missing, unexplained, one_sided;
};

void Tell(std::vector<Note>& notes, const std::vector<std::string>& sites, const std::string& why) {
  if (sites.empty()) return;
  notes.push_back(
      {sites.size() == 1 ? sites[0] : fmt::format("{} sites, the first of them {}", sites.size(), sites[0]), why});
}

class Judge {
 public:
  Judge(const Trace& reference, const Trace& subject, const DiagnoseOptions& options)
      : reference_trace_(reference), subject_trace_(subject), graph_(InferGraph(reference, subject)) {
    reference_ = AssembleRecording(reference, graph_);
    side_.recording = AssembleRecording(subject, graph_);
    if (std::string remark = AlignToReference(graph_, reference_, side_.recording, reference.header, subject.header);
        !remark.empty())
      side_.remarks.push_back(std::move(remark));
    side_.chosen = ChooseArithmetic(options.arithmetic, subject, side_.recording, graph_);
    if (!side_.chosen.remark.empty()) side_.remarks.push_back(side_.chosen.remark);
    progress_ = options.progress;
    if (options.keep_views) side_.view_limits = LimitsFor(side_.recording.recorded_count);
  }

  Diagnosis Run(const GrowthResult& growth) {
    Replay ours(graph_, reference_, ChooseArithmetic("", reference_trace_, reference_, graph_).arithmetic,
                /*with_free=*/false);
    const FittedReference fitted = FitReference(graph_, ours);
    DoubtCoarserWeights(ours.arithmetic());
    Replay theirs(graph_, side_.recording, side_.chosen.arithmetic);
    theirs.Run(progress_);
    for (const Node& node : graph_.nodes) {
      if (!side_.recording.Has(node.id)) continue;
      if (std::holds_alternative<UnknownOp>(node.op)) {
        JudgeProduct(ours, theirs, node);
        continue;
      }
      switch (fitted.proof[static_cast<std::size_t>(node.id)]) {
        case Proof::kProven: JudgeSite(theirs, node, "subject", side_); break;
        case Proof::kNone: unproven_.unexplained.push_back(node.site); break;
        case Proof::kNoInputs: unproven_.inputs_missing.push_back(node.site); break;
        case Proof::kNotRecorded: unproven_.one_sided.push_back(node.site); break;
      }
    }
    NameTogether(graph_, side_);
    Diagnosis diagnosis = ToDiagnosis(graph_, subject_trace_, std::move(side_));
    diagnosis.reference_header = reference_trace_.header.raw;
    for (const std::string& sentence : fitted.learned) diagnosis.remarks.push_back(sentence);
    Conclude(growth, diagnosis);
    return diagnosis;
  }

 private:
  // The recorded rows a product is judged by, or what reached it.
  [[nodiscard]] static bool Finite(const Value& value) {
    return std::ranges::all_of(value.data, [](double x) { return std::isfinite(x); });
  }

  // A reference that keeps its weights in a coarser type than the subject shows them only so well.
  void DoubtCoarserWeights(const Arithmetic& reference) {
    const double step = HalfUlp(reference.weights, 1.0);
    if (!(step > HalfUlp(side_.chosen.arithmetic.weights, 1.0))) return;
    for (Node& node : graph_.nodes) {
      if (std::holds_alternative<NormOp>(node.op)) node.doubt = std::hypot(node.doubt, step);
    }
  }

  bool SameExperts(const Node& node) const {
    for (const NodeId input : node.inputs) {
      if (!std::holds_alternative<TopExpertsOp>(graph_.nodes[static_cast<std::size_t>(input)].op)) continue;
      if (!reference_.Has(input) || !side_.recording.Has(input) ||
          reference_.At(input).value.data != side_.recording.At(input).value.data)
        return false;
    }
    return true;
  }

  void JudgeProduct(const Replay& ours, const Replay& theirs, const Node& node) {
    if (!reference_.Has(node.id)) {
      unproven_.one_sided.push_back(node.site);
      return;
    }
    const Value* in = node.inputs.empty() ? nullptr : &ours.Input(node.inputs[0]);
    const Value* subject_in = node.inputs.empty() ? nullptr : &theirs.Input(node.inputs[0]);
    const bool embed = node.inputs.empty();
    const bool known = embed || (in->cols() == subject_in->cols() && Finite(*in) && Finite(*subject_in));
    const std::int64_t terms = embed ? 0 : in->cols();
    const double difference = WeightDifference(reference_trace_.header, subject_trace_.header);
    const double own = ProductNoise(RoundingOf(subject_trace_), terms);
    std::optional<SiteStats> stats;
    if (known && SameExperts(node)) {
      stats = MeasureProduct({.reference_in = in,
                              .subject_in = subject_in,
                              .reference_out = reference_.At(node.id),
                              .subject_out = side_.recording.At(node.id),
                              .reference_noise = ProductNoise(RoundingOf(reference_trace_), terms),
                              .subject_noise = std::sqrt(own * own + difference * difference),
                              .head_width = HeadWidth(graph_, node)});
    }
    if (!stats) {
      unproven_.inputs_differ.push_back(node.site);
      return;
    }
    const int step = side_.recording.steps.empty() ? 0 : side_.recording.steps[0].step;
    side_.noise.push_back(RowOf(*stats, step, node.site));
    side_.error += stats->all.error;
    const Flags flags = JudgeSize(*stats);
    if (!flags.flagged) {
      ++agreeing_;
      worst_ = std::max(worst_, stats->all.ratio());
      return;
    }
    const Finding finding = NameProduct(graph_, reference_, side_.recording, node, *stats, flags);
    for (const NamedCause& cause : finding.causes)
      side_.defects.emplace_back(DefectOf(theirs, node, *stats, finding, cause, "subject"), node.id);
  }

  void Conclude(const GrowthResult& growth, Diagnosis& diagnosis) const {
    if (agreeing_ > 0) {
      diagnosis.cleared.push_back(
          {"products with weights, and the embedding",
           fmt::format("{} site{} as near to the reference's as rounding and {} inputs let them be; error at most "
                       "{:.2f} of that",
                       agreeing_, agreeing_ == 1 ? "" : "s", agreeing_ == 1 ? "its" : "their", worst_)});
    }
    Tell(diagnosis.unproven, unproven_.inputs_differ,
         "products with weights whose inputs differ from the reference's already, or are not recorded: only the "
         "weights tell "
         "whether they add a mistake of their own");
    Tell(diagnosis.unproven, unproven_.inputs_missing, "what they are computed from is not recorded");
    Tell(diagnosis.unproven, unproven_.unexplained,
         "the reference's own values do not follow from any op known here, so the subject's cannot be judged by one");
    Tell(diagnosis.unproven, unproven_.one_sided, "not recorded in the reference");
    diagnosis.unproven.push_back(
        {"a mistake that both engines make", "the reference was trusted: only weights (--model) could show it wrong"});
    const DiffResult& diff = growth.diff;
    if (diagnosis.defects.empty() && diff.verdict == Verdict::kDiverged) AddFirstDivergence(diff, diagnosis);
    diagnosis.verdict = !diagnosis.defects.empty()            ? "diverged"
                        : diff.verdict == Verdict::kIdentical ? "identical"
                                                              : "within_noise";
    if (growth.by_layer.IsTrend()) {
      diagnosis.remarks.push_back(
          fmt::format("between the traces the error changes by a factor of {:.3g} a layer at {} (p = {:.2g})",
                      std::pow(10, growth.by_layer.slope), growth.by_layer.site, growth.by_layer.p_value));
    }
  }

  // Beyond what rounding may do, and no op that can be judged is at fault: where it shows first is all that is known.
  void AddFirstDivergence(const DiffResult& diff, Diagnosis& diagnosis) const {
    const SiteDiff& site = diff.sites[diff.first_divergence->index];
    Defect defect{.side = "subject", .step = site.step, .site = site.site};
    defect.ratio = site.compared && site.allowed > 0 ? std::sqrt(site.stats.Nmse()) / site.allowed
                                                     : std::numeric_limits<double>::infinity();
    if (diff.first_divergence->position) defect.where.tokens = {*diff.first_divergence->position};
    defect.cause = {.id = "unknown",
                    .confidence = 0,
                    .statement =
                        "the first site beyond what rounding explains, but no op that can be judged without weights "
                        "adds to it: it may be made here or, too small to show, before",
                    .fix = "give the weights (--model), or record more sites before this one"};
    if (site.relation.is_object() && site.relation.contains("statement"))
      defect.cause.statement += fmt::format("; {}", site.relation["statement"].get<std::string>());
    if (WeightDifference(reference_trace_.header, subject_trace_.header) > 0)
      defect.cause.statement += "; the engines ran weights of other types, which alone may be the reason";
    diagnosis.defects.push_back(std::move(defect));
  }

  const Trace &reference_trace_, &subject_trace_;
  Graph graph_;
  Recording reference_;
  SideResult side_;
  Replay::Progress progress_;
  Unproven unproven_;
  int agreeing_ = 0;
  double worst_ = 0;
};

}  // namespace

Diagnosis DiagnoseWithoutWeights(const Trace& reference, const Trace& subject, const DiagnoseOptions& options) {
  const GrowthResult growth = CompareGrowth(reference, subject);
  if (growth.diff.verdict == Verdict::kIncomparable) throw IncomparableError(growth.diff.reason);
  return Judge(reference, subject, options).Run(growth);
}

}  // namespace paritrace
