#include "compare/diff.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <deque>
#include <limits>
#include <map>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "compare/align.h"
#include "compare/digest_judge.h"
#include "compare/evidence_judge.h"
#include "compare/judge.h"
#include "compare/relations.h"
#include "compare/routing.h"
#include "compare/token_rows.h"
#include "core/parallel.h"

namespace paritrace {
namespace {

// Pairs below this many values are compared side by side, larger ones by all threads one after the other.
constexpr std::int64_t kSmallPair = 1 << 18;

bool EndsWith(std::string_view site, std::string_view part) { return site.ends_with(part); }

std::int64_t LayerOf(std::string_view site) {
  if (!site.starts_with("layers.")) return -1;
  return std::atoll(std::string(site.substr(7)).c_str());
}

std::vector<std::int64_t> Unravel(std::int64_t index, const Shape& shape) {
  std::vector<std::int64_t> at(shape.size());
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    at[axis] = index % shape[axis];
    index /= shape[axis];
  }
  return at;
}

// One pair on its way to a SiteDiff.
struct Work {
  const EntryPair* pair = nullptr;
  const TensorView* reference = nullptr;
  const TensorView* subject = nullptr;
  LayoutCandidate reading;
  PairComparison comparison;
};

class Differ {
 public:
  Differ(const Trace& reference, const Trace& subject, const DiffOptions& options)
      : reference_(reference),
        subject_(subject),
        options_(options),
        tokens_(FindTokenMismatch(reference, subject)),
        pairs_(AlignTraces(reference, subject, !tokens_ || !InFirstStep(*tokens_))),
        noise_(RoundingOf(reference), RoundingOf(subject), Width()) {
    std::int64_t layers = 0;
    for (const EntryPair& pair : pairs_) layers = std::max(layers, LayerOf(pair.site) + 1);
    // What no rule maps stands behind the last site before it in its step.
    std::int64_t stored = 0;
    int step = std::numeric_limits<int>::min();
    for (const EntryPair& pair : pairs_) {
      if (pair.step != step) stored = 0;
      step = pair.step;
      stored = StoredBefore(pair.site, layers, stored + 1);
      stored_.push_back(stored);
    }
  }

  DiffResult Run() {
    DiffResult result;
    result.reference_path = reference_.path;
    result.subject_path = subject_.path;
    result.reference = reference_.header;
    result.subject = subject_.header;
    result.reference_rounding = noise_.reference();
    result.subject_rounding = noise_.subject();
    result.tokens = tokens_;
    result.sites.resize(pairs_.size());
    for (std::size_t i = 0; i < pairs_.size(); ++i) Describe(pairs_[i], result.sites[i]);
    const auto is_wanted = [&](const EntryPair& pair) {
      return options_.only_site.empty() || pair.site == options_.only_site;
    };

    std::vector<std::size_t> comparable, estimable;
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
      if (pairs_[i].reference == nullptr || pairs_[i].subject == nullptr || !is_wanted(pairs_[i])) continue;
      if (tokens_ && !StandsBefore(pairs_[i], *tokens_)) {
        result.sites[i].status = SiteStatus::kTokenMismatch;
      } else if (pairs_[i].status == PairStatus::kPaired) {
        comparable.push_back(i);
      } else if (pairs_[i].status == PairStatus::kNotRecorded && result.sites[i].status != SiteStatus::kIdentical) {
        estimable.push_back(i);
      }
    }
    AlignMixtures(result.sites, comparable);
    ExpectEstimates(estimable);
    CompareAll(comparable);
    RememberScores(comparable);
    for (const std::size_t i : comparable) Judge(works_[i], i, result.sites[i]);
    SearchReadings(comparable, result.sites);
    SearchRelations(comparable, result.sites);
    EstimateAll(estimable, result.sites);
    std::erase_if(result.sites,
                  [&](const SiteDiff& site) { return !options_.only_site.empty() && site.site != options_.only_site; });
    Conclude(result);
    return result;
  }

 private:
  // Terms summed for one value: the width of the residual stream, else of the widest tensor that is no logits.
  std::int64_t Width() const {
    std::int64_t stream = 0, widest = 1;
    for (const EntryPair& pair : pairs_) {
      if (pair.shape.empty() || EndsWith(pair.site, "attn.scores") || EndsWith(pair.site, "attn.probs") ||
          pair.site == "logits")
        continue;
      const std::int64_t last = pair.shape.back();
      widest = std::max(widest, last);
      if (EndsWith(pair.site, ".in") || EndsWith(pair.site, ".out") || pair.site == "embed" ||
          EndsWith(pair.site, "norm")) {
        stream = std::max(stream, last);
      }
    }
    return stream > 0 ? stream : widest;
  }

  // Rows after a differing token, and in an encoder all rows of the step, see another text: a difference inside the first
  // step leaves nothing to compare.
  bool InFirstStep(const TokenMismatch& mismatch) const {
    const TraceHeader &ours = reference_.header, &theirs = subject_.header;
    if (ours.steps.empty() || theirs.steps.empty() || ours.tokens.size() != 1 || theirs.tokens.size() != 1) return true;
    return mismatch.position < std::max(ours.steps.front().start + ours.steps.front().count,
                                        theirs.steps.front().start + theirs.steps.front().count);
  }

  // True for a pair whose rows all stand before the first differing token.
  bool StandsBefore(const EntryPair& pair, const TokenMismatch& mismatch) const {
    if (InFirstStep(mismatch) || pair.candidates.empty()) return false;
    return pair.first_position + pair.candidates.front().layout.rows <= mismatch.position;
  }

  void Describe(const EntryPair& pair, SiteDiff& site) const {
    site.step = pair.step;
    site.site = pair.site;
    site.is_site = pair.is_site;
    site.shape = pair.shape;
    site.subject_shape = pair.subject_shape;
    site.note = pair.note;
    site.first_position = pair.first_position;
    site.reference_entry = pair.reference;
    site.subject_entry = pair.subject;
    if (pair.reference != nullptr) {
      site.reference_name = pair.reference->name;
      site.reference_dtype = pair.reference->tensor.dtype;
    }
    if (pair.subject != nullptr) {
      site.subject_name = pair.subject->name;
      site.subject_dtype = pair.subject->tensor.dtype;
    }
    switch (pair.status) {
      case PairStatus::kPaired: break;
      case PairStatus::kMissingInSubject: site.status = SiteStatus::kMissingInSubject; break;
      case PairStatus::kMissingInReference: site.status = SiteStatus::kMissingInReference; break;
      case PairStatus::kShapeMismatch: site.status = SiteStatus::kShapeMismatch; break;
      case PairStatus::kNotRecorded: {
        if (SameByHash(*pair.reference, *pair.subject)) {
          site.status = SiteStatus::kIdentical;
          site.note = "equal by their hashes";
        } else {
          site.status = pair.subject->has_data() ? SiteStatus::kMissingInReference : SiteStatus::kMissingInSubject;
        }
        break;
      }
    }
  }

  void Compare(Work& work) {
    const auto progress = [this](std::int64_t values) {
      const std::int64_t done = done_.fetch_add(values) + values;
      if (options_.progress) options_.progress(done, total_);
    };
    work.comparison = ComparePair(*work.reference, *work.subject, work.reading.layout,
                                  {.progress = progress, .detail = options_.all_stats});
  }

  // `moe.weights` stand in the order of `moe.experts`: where that order differs, or one side stands by expert, both are
  // brought to [tokens, experts] first.
  void AlignMixtures(std::vector<SiteDiff>& sites, std::vector<std::size_t>& comparable) {
    works_.resize(pairs_.size());
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
      EntryPair& pair = pairs_[i];
      const bool can = pair.status == PairStatus::kPaired || pair.status == PairStatus::kShapeMismatch;
      if (!can || !EndsWith(pair.site, "moe.weights") || sites[i].status == SiteStatus::kTokenMismatch) continue;
      if (!pair.reference->has_data() || !pair.subject->has_data()) continue;
      const std::string experts = pair.site.substr(0, pair.site.size() - 7) + "experts";
      const auto recorded = [&](const Trace& trace, const TraceEntry& entry) {
        const TraceEntry* chosen = trace.Find(entry.step, experts);
        return RecordedWeights{entry.tensor, chosen != nullptr && chosen->has_data() ? &chosen->tensor : nullptr};
      };
      auto aligned = AlignExpertWeights(recorded(reference_, *pair.reference), recorded(subject_, *pair.subject));
      if (!aligned) continue;
      Work& work = works_[i];
      work.pair = &pair;
      work.reference = Keep(pair.site, std::move(aligned->reference), aligned->rows, aligned->experts);
      work.subject = Keep(pair.site, std::move(aligned->subject), aligned->rows, aligned->experts);
      work.reading.layout = ContiguousLayout(aligned->rows, aligned->experts);
      work.reading.relation = {{"kind", "layout"}, {"from", "[tokens, k]"}, {"to", "[tokens, experts]"}};
      pair.candidates = {work.reading};
      sites[i].shape = sites[i].subject_shape = {aligned->rows, aligned->experts};
      sites[i].note.clear();
      if (pair.status == PairStatus::kShapeMismatch) comparable.push_back(i);
      pair.status = PairStatus::kPaired;
    }
    std::sort(comparable.begin(), comparable.end());
  }

  // Values of our own making, kept as long as the comparison runs.
  const TensorView* Keep(const std::string& name, std::vector<double> values, std::int64_t rows, std::int64_t columns) {
    const auto& kept = made_values_.emplace_back(std::move(values));
    return &made_views_.emplace_back(TensorView{name, DType::kF64, {rows, columns}, std::as_bytes(std::span(kept))});
  }

  void CompareAll(const std::vector<std::size_t>& comparable) {
    std::vector<std::size_t> small, large;
    for (const std::size_t i : comparable) {
      Work& work = works_[i];
      if (work.pair == nullptr) {
        work.pair = &pairs_[i];
        work.reference = &pairs_[i].reference->tensor;
        work.subject = &pairs_[i].subject->tensor;
        work.reading = pairs_[i].candidates.front();
      }
      const std::int64_t values = works_[i].reading.layout.Count();
      total_ += values;
      rows_ += works_[i].reading.layout.rows;
      (values < kSmallPair ? small : large).push_back(i);
    }
    ParallelFor(static_cast<std::int64_t>(small.size()), 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) Compare(works_[small[static_cast<std::size_t>(i)]]);
    });
    for (const std::size_t i : large) Compare(works_[i]);
  }

  void ExpectEstimates(const std::vector<std::size_t>& estimable) {
    for (const std::size_t i : estimable) {
      const EntryPair& pair = pairs_[i];
      const PairLayout& layout = pair.candidates.front().layout;
      // A shape that no values stand behind may claim any number of rows.
      rows_ += std::min<std::int64_t>(layout.rows, 1 << 20);
      if (pair.reference->has_data() || pair.subject->has_data()) total_ += layout.Count();
      if (!EndsWith(pair.site, "attn.scores")) continue;
      for (const TraceEntry* entry : {pair.subject, pair.reference}) {
        const auto rms = entry->stats.is_object() ? entry->stats.find("rms") : entry->stats.end();
        if (rms != entry->stats.end() && rms->is_number())
          scores_rms_[{pair.step, LayerOf(pair.site)}] = rms->get<double>();
      }
    }
  }

  void EstimateAll(const std::vector<std::size_t>& estimable, std::vector<SiteDiff>& sites) {
    ParallelFor(static_cast<std::int64_t>(estimable.size()), 1, [&](std::int64_t begin, std::int64_t) {
      const std::size_t i = estimable[static_cast<std::size_t>(begin)];
      const EntryPair& pair = pairs_[i];
      EstimateSite(pair, i, sites[i]);
      if (!pair.reference->has_data() && !pair.subject->has_data()) return;
      const std::int64_t values = pair.candidates.front().layout.Count(), done = done_.fetch_add(values) + values;
      if (options_.progress) options_.progress(done, total_);
    });
  }

  void EstimateSite(const EntryPair& pair, std::size_t index, SiteDiff& site) const {
    const double allowed = Allowed(pair, index, rows_);
    auto found = JudgeDigestPair(pair, allowed, RowOrderMayDiffer(pair.site, reference_.header, subject_.header));
    if (!found) return UseEvidence(pair, index, site);
    site.compared = true;
    site.allowed = allowed;
    site.layout = found->reading.layout;
    site.relation = std::move(found->reading.relation);
    site.estimate = std::move(found->comparison.estimate);
    site.stats = found->comparison.stats;
    site.positions = std::move(found->comparison.positions);
    site.status = found->diverged ? SiteStatus::kDiverged : SiteStatus::kWithinNoise;
    if (found->row) site.diverged_position = pair.first_position + *found->row;
    site.note = std::move(found->note);
  }

  // Stays missing on one side where the evidence decides nothing.
  void UseEvidence(const EntryPair& pair, std::size_t index, SiteDiff& site) const {
    if (!HasEvidence(*pair.reference, *pair.subject)) return;
    const ErrorBounds bounds{.row = Allowed(pair, index, std::max<std::int64_t>(rows_, 1)),
                             .value = Allowed(pair, index, std::max<std::int64_t>(total_, 1))};
    EvidenceJudgement found =
        JudgeEvidence(pair, bounds, RowOrderMayDiffer(pair.site, reference_.header, subject_.header));
    site.allowed = bounds.row;
    site.evidence = std::move(found.json);
    site.relation = std::move(found.relation);
    const bool hashes = !pair.reference->hash.empty() && !pair.subject->hash.empty();
    const bool hashed =
        pair.reference->hash.starts_with("blake3:") || pair.subject->hash.starts_with("blake3:") || hashes;
    site.note = hashed ? "the hashes differ; " + found.note : found.note;
    switch (found.verdict) {
      case EvidenceVerdict::kUndecided: site.undecided = true; return;
      case EvidenceVerdict::kAgrees: site.status = SiteStatus::kWithinNoise; return;
      case EvidenceVerdict::kDiverged: site.status = SiteStatus::kDiverged; break;
    }
    if (found.row) site.diverged_position = pair.first_position + *found.row;
  }

  // The softmax turns an absolute error of a score into a relative one of a probability: its condition is the size of
  // the scores, not 1.
  void RememberScores(const std::vector<std::size_t>& comparable) {
    for (const std::size_t i : comparable) {
      if (!EndsWith(pairs_[i].site, "attn.scores")) continue;
      scores_rms_[{pairs_[i].step, LayerOf(pairs_[i].site)}] = works_[i].comparison.total.RmsReference();
    }
  }

  double Allowed(const EntryPair& pair, std::size_t index, std::int64_t judgements) const {
    const double relative = noise_.Relative(stored_[index], judgements);
    if (!EndsWith(pair.site, "attn.probs")) return relative;
    const auto scores = scores_rms_.find({pair.step, LayerOf(pair.site)});
    return scores == scores_rms_.end() ? relative : relative * std::max(1.0, scores->second);
  }

  void Judge(const Work& work, std::size_t index, SiteDiff& site) const {
    const EntryPair& pair = *work.pair;
    const PairLayout& layout = work.reading.layout;
    const PairStats& stats = work.comparison.total;
    site.compared = true;
    site.layout = layout;
    site.stats = stats;
    site.positions = work.comparison.positions;
    site.detail = work.comparison.detail;
    site.relation = work.reading.relation;
    site.allowed = Allowed(pair, index, rows_);
    site.diverged_position.reset();
    site.max_abs_at.clear();
    site.first_mismatch_at.clear();
    if (stats.max_abs_at >= 0) site.max_abs_at = Unravel(layout.ReferenceIndex(stats.max_abs_at), site.shape);
    if (stats.first_mismatch >= 0)
      site.first_mismatch_at = Unravel(layout.ReferenceIndex(stats.first_mismatch), site.shape);
    if (EndsWith(pair.site, "moe.experts")) return JudgeRouting(work, site);
    if (stats.AllEqual()) {
      site.status = SiteStatus::kIdentical;
      return;
    }
    const bool exact = !Info(work.reference->dtype).is_float && !Info(work.subject->dtype).is_float;
    const ErrorBounds bounds{.row = site.allowed, .value = Allowed(pair, index, total_)};
    const std::optional<std::int64_t> row = FirstDivergedRow(work.comparison, layout, bounds, exact);
    site.status = row ? SiteStatus::kDiverged : SiteStatus::kWithinNoise;
    if (row) site.diverged_position = pair.first_position + *row;
  }

  void JudgeRouting(const Work& work, SiteDiff& site) const {
    const EntryPair& pair = *work.pair;
    const PairLayout& layout = work.reading.layout;
    const RoutingDiff routing = CompareRouting(*work.reference, layout.reference.base, *work.subject,
                                               layout.subject.base, layout.rows, layout.inner);
    site.status = routing.same_order == routing.tokens ? SiteStatus::kIdentical
                  : routing.same_set == routing.tokens ? SiteStatus::kWithinNoise
                                                       : SiteStatus::kDiverged;
    if (!routing.flipped.empty()) {
      site.diverged_position = pair.first_position + routing.flipped.front();
      site.note = fmt::format("{} of {} tokens go to other experts", routing.flipped.size(), routing.tokens);
    } else if (site.status == SiteStatus::kWithinNoise) {
      site.note = "the same experts in another order";
    }
  }

  static std::string_view LastPart(std::string_view site) { return site.substr(site.rfind('.') + 1); }

  // Other ways to read a pair that does not agree: another axis order where the shapes allow two, another row order
  // at q and k. Taken only where it explains far more, and said in `relation`.
  void SearchReadings(const std::vector<std::size_t>& comparable, std::vector<SiteDiff>& sites) {
    for (const std::size_t i : comparable) {
      if (sites[i].status != SiteStatus::kDiverged || EndsWith(pairs_[i].site, "moe.experts")) continue;
      const EntryPair& pair = pairs_[i];
      const double plain = works_[i].comparison.total.Nmse();
      for (std::size_t other = 1; other < pair.candidates.size(); ++other)
        Try(pair.candidates[other], plain / kDecisive, works_[i]);
      if (RowOrderMayDiffer(pair.site, reference_.header, subject_.header)) TryRowOrders(pair, plain, works_[i]);
      if (!works_[i].reading.relation.is_null()) Judge(works_[i], i, sites[i]);
    }
  }

  // Takes `reading` if its error is at most `limit` and smaller than what `work` has.
  void Try(const LayoutCandidate& reading, double limit, Work& work) {
    Work trial{work.pair, work.reference, work.subject, reading, {}};
    trial.comparison = ComparePair(*work.reference, *work.subject, reading.layout,
                                   {.progress = nullptr, .detail = options_.all_stats});
    const double error = trial.comparison.total.Nmse();
    if (error <= limit && error < work.comparison.total.Nmse()) work = std::move(trial);
  }

  void TryRowOrders(const EntryPair& pair, double plain, Work& work) {
    struct Order {
      std::int64_t head_dim;
      bool subject_is_interleaved;
    };
    const LayoutCandidate& base = pair.candidates.front();
    // Some rows are enough to tell which order it could be.
    Order best{0, false};
    double best_error = std::numeric_limits<double>::infinity();
    for (const bool subject_is_interleaved : {true, false}) {
      for (std::int64_t head_dim = 4; head_dim <= 512; head_dim += 2) {
        auto trial = WithRowOrder(base, head_dim, subject_is_interleaved);
        if (!trial) continue;
        LayoutCandidate few = *trial;
        few.layout.rows = std::min<std::int64_t>(few.layout.rows, 4);
        const double error = ComparePair(*work.reference, *work.subject, few.layout).total.Nmse();
        if (error < best_error) {
          best_error = error;
          best = {head_dim, subject_is_interleaved};
        }
      }
    }
    if (best.head_dim == 0) return;
    // An engine has one row order: once it is certain at a site, the same site of a later layer follows it, even where
    // an error from elsewhere has grown so large that the gain is no longer decisive.
    const std::string kind(LastPart(pair.site));
    const auto known = row_orders_.find(kind);
    if (known != row_orders_.end()) {
      const auto [head_dim, subject_is_interleaved] = known->second;
      if (auto reading = WithRowOrder(base, head_dim, subject_is_interleaved)) return Try(*reading, plain, work);
    }
    Try(*WithRowOrder(base, best.head_dim, best.subject_is_interleaved), plain / kDecisive, work);
    if (!work.reading.relation.is_null()) row_orders_[kind] = {best.head_dim, best.subject_is_interleaved};
  }

  // What would explain the first sites that diverged. Later ones mostly inherit an error that nothing simple describes.
  void SearchRelations(const std::vector<std::size_t>& comparable, std::vector<SiteDiff>& sites) const {
    constexpr std::size_t kMostSearched = 32;
    std::vector<std::size_t> searched;
    for (const std::size_t i : comparable) {
      const bool ids = EndsWith(pairs_[i].site, "moe.experts") || !Info(works_[i].reference->dtype).is_float;
      if (sites[i].status == SiteStatus::kDiverged && !ids && searched.size() < kMostSearched) searched.push_back(i);
    }
    ParallelFor(static_cast<std::int64_t>(searched.size()), 1, [&](std::int64_t begin, std::int64_t) {
      const std::size_t i = searched[static_cast<std::size_t>(begin)];
      const Work& work = works_[i];
      const std::int64_t row = *sites[i].diverged_position - pairs_[i].first_position;
      auto found = FindRelation({*work.reference, *work.subject, work.reading.layout, row}, Neighbours(i));
      if (!found) return;
      if (!sites[i].relation.is_null()) (*found)["layout"] = sites[i].relation;
      sites[i].relation = std::move(*found);
    });
  }

  // The reference's tensors of the same layer and size, one of which the subject may hold, add or leave out.
  std::vector<OtherTensor> Neighbours(std::size_t index) const {
    std::vector<OtherTensor> others;
    const EntryPair& pair = pairs_[index];
    if (works_[index].reference != &pair.reference->tensor) return others;
    for (const EntryPair& other : pairs_) {
      const bool near = other.step == pair.step && LayerOf(other.site) == LayerOf(pair.site) && other.site != pair.site;
      if (!near || other.reference == nullptr || !other.reference->has_data() || !other.is_site) continue;
      if (other.shape == pair.shape) others.push_back({other.site, &other.reference->tensor});
    }
    return others;
  }

  void Conclude(DiffResult& result) const {
    for (std::size_t i = 0; i < result.sites.size() && !result.first_divergence; ++i) {
      const SiteDiff& site = result.sites[i];
      if (site.status != SiteStatus::kDiverged && site.status != SiteStatus::kShapeMismatch) continue;
      result.first_divergence = FirstDivergence{i, site.step, site.site, site.diverged_position};
    }
    const StatusCounts counts = result.Counts();
    if (counts.Compared() == 0) {
      result.verdict = Verdict::kIncomparable;
      result.first_divergence.reset();
      const auto undecided =
          std::count_if(result.sites.begin(), result.sites.end(), [](const SiteDiff& site) { return site.undecided; });
      if (result.tokens) {
        result.reason = result.tokens->statement;
      } else if (undecided > 0) {
        result.reason = fmt::format(
            "nothing contradicts, but none of the {} common sites has values to compare: hashes, statistics or coarse "
            "prints alone show no parity",
            undecided);
      } else if (counts.shape_mismatch > 0) {
        result.reason = fmt::format("no site has the same shape on both sides; first, {}: {}",
                                    FirstOf(result, SiteStatus::kShapeMismatch).site,
                                    FirstOf(result, SiteStatus::kShapeMismatch).note);
      } else {
        result.reason = "the traces have no site in common; `paritrace align REF SUB -o MAP.toml` finds what to pair";
      }
    } else if (result.first_divergence) {
      result.verdict = Verdict::kDiverged;
    } else if (const auto undecided = std::count_if(result.sites.begin(), result.sites.end(),
                                                    [](const SiteDiff& site) { return site.undecided; });
               undecided > 0) {
      // Parity is a word about the whole: it is not said where sites are known to hold something that was not compared.
      result.verdict = Verdict::kIncomparable;
      result.reason = fmt::format(
          "nothing contradicts, but at {} of {} common sites there are no values to compare: hashes, statistics or "
          "coarse "
          "prints alone show no parity",
          undecided, undecided + counts.Compared());
    } else {
      result.verdict = counts.within_noise > 0 ? Verdict::kWithinNoise : Verdict::kIdentical;
    }
  }

  static const SiteDiff& FirstOf(const DiffResult& result, SiteStatus status) {
    return *std::find_if(result.sites.begin(), result.sites.end(),
                         [&](const SiteDiff& site) { return site.status == status; });
  }

  // How much smaller the squared error of a reading must be to be believed: a wrong one leaves nearly all of it.
  static constexpr double kDecisive = 100;

  const Trace& reference_;
  const Trace& subject_;
  const DiffOptions& options_;
  std::optional<TokenMismatch> tokens_;
  std::vector<EntryPair> pairs_;
  NoiseModel noise_;
  std::vector<std::int64_t> stored_;  // by index into pairs_: tensors stored by then
  std::deque<std::vector<double>> made_values_;
  std::deque<TensorView> made_views_;
  std::vector<Work> works_;                                    // by index into pairs_
  std::map<std::pair<int, std::int64_t>, double> scores_rms_;  // step, layer
  std::map<std::string, std::pair<std::int64_t, bool>> row_orders_;
  std::atomic<std::int64_t> done_{0};
  std::int64_t total_ = 0, rows_ = 0;  // values and rows that are judged
};

}  // namespace

std::string_view Name(SiteStatus status) {
  switch (status) {
    case SiteStatus::kIdentical: return "identical";
    case SiteStatus::kWithinNoise: return "within_noise";
    case SiteStatus::kDiverged: return "diverged";
    case SiteStatus::kMissingInSubject: return "missing_in_subject";
    case SiteStatus::kMissingInReference: return "missing_in_reference";
    case SiteStatus::kShapeMismatch: return "shape_mismatch";
    case SiteStatus::kTokenMismatch: return "token_mismatch";
  }
  return "";
}

std::string_view Name(Verdict verdict) {
  switch (verdict) {
    case Verdict::kIdentical: return "identical";
    case Verdict::kWithinNoise: return "within_noise";
    case Verdict::kDiverged: return "diverged";
    case Verdict::kIncomparable: return "incomparable";
  }
  return "";
}

int ExitCode(Verdict verdict) {
  switch (verdict) {
    case Verdict::kIdentical:
    case Verdict::kWithinNoise: return 0;
    case Verdict::kDiverged: return 1;
    case Verdict::kIncomparable: return 3;
  }
  return 3;
}

StatusCounts DiffResult::Counts() const {
  StatusCounts counts;
  for (const SiteDiff& site : sites) {
    switch (site.status) {
      case SiteStatus::kIdentical: ++counts.identical; break;
      case SiteStatus::kWithinNoise: ++counts.within_noise; break;
      case SiteStatus::kDiverged: ++counts.diverged; break;
      case SiteStatus::kMissingInSubject: ++counts.missing_in_subject; break;
      case SiteStatus::kMissingInReference: ++counts.missing_in_reference; break;
      case SiteStatus::kShapeMismatch: ++counts.shape_mismatch; break;
      case SiteStatus::kTokenMismatch: ++counts.token_mismatch; break;
    }
  }
  return counts;
}

DiffResult Diff(const Trace& reference, const Trace& subject, const DiffOptions& options) {
  return Differ(reference, subject, options).Run();
}

}  // namespace paritrace
