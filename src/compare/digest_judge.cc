#include "compare/digest_judge.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace paritrace {
namespace {

// How much smaller the squared error of a reading must be to be believed: a wrong one leaves nearly all of it.
constexpr double kDecisive = 100;

// The energy of a usual row. The median, because a first token may be a hundred times larger than all others.
double UsualEnergy(const DigestComparison& comparison) {
  std::vector<double> energies;
  for (const RowGroup& group : comparison.groups)
    energies.push_back(group.reference_energy / static_cast<double>(group.rows));
  if (energies.empty()) return 0;
  const auto middle = energies.begin() + static_cast<std::ptrdiff_t>(energies.size() / 2);
  std::nth_element(energies.begin(), middle, energies.end());
  return *middle;
}

// The rule for values (FirstDivergedRow), group by group and for all rows together, whose interval is narrower.
void Judge(double bound, std::int64_t first_position, DigestJudgement& out) {
  const DigestComparison& comparison = out.comparison;
  const double usual = UsualEnergy(comparison);
  double explained = 0;
  for (const RowGroup& group : comparison.groups) {
    const double most = bound * bound * std::max(group.reference_energy, static_cast<double>(group.rows) * usual);
    explained += most;
    if (group.difference.low <= most) continue;
    out.diverged = true;
    if (group.rows == 1) {
      out.row = group.first_row;
    } else {
      const std::int64_t first = first_position + group.first_row;
      out.note += fmt::format("; first seen in positions {} to {}", first, first + group.rows - 1);
    }
    return;
  }
  out.diverged = comparison.stats.mismatches > 0 || !(comparison.difference.low <= explained);
}

class Reader {
 public:
  Reader(const EntryPair& pair, double bound) : pair_(pair), bound_(bound) {}

  [[nodiscard]] std::optional<DigestJudgement> Read(const LayoutCandidate& reading, DigestMethod method) const {
    auto comparison = CompareDigests(*pair_.reference, *pair_.subject, reading.layout, method);
    if (!comparison) return std::nullopt;
    DigestJudgement out{reading, *std::move(comparison), false, std::nullopt, ""};
    const bool both = !pair_.reference->has_data() && !pair_.subject->has_data();
    out.note = out.comparison.estimate.by_norms ? "bounded by the norms of the rows alone"
               : both                           ? "estimated from two sketches"
                                                : "estimated from a sketch";
    Judge(bound_, pair_.first_position, out);
    return out;
  }

  // Takes `reading` if it leaves far less than `best` has.
  void Try(const LayoutCandidate& reading, double limit, std::optional<DigestJudgement>& best) const {
    auto trial = Read(reading, DigestMethod::kSketch);
    if (!trial || trial->comparison.estimate.by_norms) return;
    const double error = trial->comparison.difference.value;
    if (error <= limit && error < best->comparison.difference.value) best = std::move(trial);
  }

  // The order of q and k's rows that explains most of the difference, tried on the first rows only.
  [[nodiscard]] std::optional<LayoutCandidate> BestRowOrder(const LayoutCandidate& base) const {
    std::optional<LayoutCandidate> best;
    double best_error = 0;
    const Shape& digest = pair_.reference->has_data() ? pair_.subject->tensor.shape : pair_.reference->tensor.shape;
    const std::int64_t enough = std::max<std::int64_t>(4, 3 * SketchPlan(digest).positions_per_group);
    for (const bool subject_is_interleaved : {true, false}) {
      for (std::int64_t head_dim = 4; head_dim <= 512; head_dim += 2) {
        auto trial = WithRowOrder(base, head_dim, subject_is_interleaved);
        if (!trial) continue;
        PairLayout few = trial->layout;
        few.rows = std::min(few.rows, enough);
        const auto found = CompareDigests(*pair_.reference, *pair_.subject, few);
        if (!found || found->estimate.by_norms) continue;
        if (best && !(found->difference.value < best_error)) continue;
        best_error = found->difference.value;
        best = std::move(trial);
      }
    }
    return best;
  }

 private:
  const EntryPair& pair_;
  double bound_;
};

}  // namespace

std::optional<DigestJudgement> JudgeDigestPair(const EntryPair& pair, double bound, bool row_order_may_differ) {
  if (pair.candidates.empty()) return std::nullopt;
  const LayoutCandidate& base = pair.candidates.front();
  // The ids of experts: only whether each token goes to the same ones counts, not their order.
  if (pair.site.ends_with("moe.experts")) return Reader(pair, 0).Read(base, DigestMethod::kNorms);
  const bool exact = !Info(pair.reference->tensor.dtype).is_float && !Info(pair.subject->tensor.dtype).is_float;
  const Reader reader(pair, exact ? 0 : bound);
  auto best = reader.Read(base, DigestMethod::kSketch);
  if (!best || !best->diverged || best->comparison.estimate.by_norms) return best;
  const double limit = best->comparison.difference.value / kDecisive;
  for (std::size_t i = 1; i < pair.candidates.size(); ++i) reader.Try(pair.candidates[i], limit, best);
  if (!row_order_may_differ) return best;
  if (pair.reference->has_data() || pair.subject->has_data()) {
    if (const auto order = reader.BestRowOrder(base)) reader.Try(*order, limit, best);
  } else if (auto norms = reader.Read(base, DigestMethod::kNorms)) {
    norms->note += ": q and k of these engines may stand in another order of rows, which two digests cannot undo";
    best = std::move(norms);
  }
  return best;
}

}  // namespace paritrace
