#include "compare/logits.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/decode.h"
#include "core/error.h"
#include "core/parallel.h"

namespace paritrace {
namespace {

// log of the sum of exponentials, with the maximum taken out so that nothing overflows.
double LogSumExp(const double* values, std::int64_t count) {
  const double most = *std::max_element(values, values + count);
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += std::exp(values[i] - most);
  return most + std::log(sum);
}

// Ids of the k largest, best first; among equals the lower id.
std::vector<std::int64_t> Best(const double* values, std::int64_t count, int k) {
  std::vector<std::int64_t> ids(static_cast<std::size_t>(count));
  std::iota(ids.begin(), ids.end(), 0);
  const auto better = [&](std::int64_t a, std::int64_t b) {
    return values[a] != values[b] ? values[a] > values[b] : a < b;
  };
  const auto end = ids.begin() + std::min<std::int64_t>(k, count);
  std::partial_sort(ids.begin(), end, ids.end(), better);
  ids.erase(end, ids.end());
  return ids;
}

std::vector<RankedLogit> Ranked(const std::vector<std::int64_t>& best, int top_k, const double* values,
                                double log_sum) {
  std::vector<RankedLogit> ranked;
  for (const std::int64_t id : best) {
    if (static_cast<int>(ranked.size()) == top_k) break;
    ranked.push_back({.id = id, .logit = values[id], .probability = std::exp(values[id] - log_sum)});
  }
  return ranked;
}

double Kl(const double* from, double from_sum, const double* to, double to_sum, std::int64_t count) {
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const double log_p = from[i] - from_sum;
    sum += std::exp(log_p) * (log_p - (to[i] - to_sum));
  }
  return std::max(0.0, sum);  // it is never negative; its rounding may be
}

}  // namespace

LogitsPosition CompareLogitRows(const double* reference, const double* subject, std::int64_t count, int top_k) {
  LogitsPosition out;
  if (count == 0) return out;
  double rr = 0, ss = 0, rs = 0, dd = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(reference[i]) || !std::isfinite(subject[i])) {
      out.finite = false;
      return out;
    }
    const double d = subject[i] - reference[i];
    rr += reference[i] * reference[i];
    ss += subject[i] * subject[i];
    rs += reference[i] * subject[i];
    dd += d * d;
    out.max_abs = std::max(out.max_abs, std::fabs(d));
  }
  out.l2 = std::sqrt(dd);
  out.noise = std::sqrt(dd / static_cast<double>(count));
  out.cosine = rr > 0 && ss > 0 ? std::clamp(rs / (std::sqrt(rr) * std::sqrt(ss)), -1.0, 1.0) : rr == ss ? 1 : 0;
  const double r_sum = LogSumExp(reference, count), s_sum = LogSumExp(subject, count);
  out.kl_forward = Kl(reference, r_sum, subject, s_sum, count);
  out.kl_backward = Kl(subject, s_sum, reference, r_sum, count);
  const int kept = std::max(top_k, 2);
  std::vector<std::int64_t> r_best = Best(reference, count, kept), s_best = Best(subject, count, kept);
  out.top_reference = r_best[0];
  out.top_subject = s_best[0];
  out.best_reference = Ranked(r_best, top_k, reference, r_sum);
  out.best_subject = Ranked(s_best, top_k, subject, s_sum);
  if (count > 1) {
    out.margin_reference = reference[r_best[0]] - reference[r_best[1]];
    out.margin_subject = subject[s_best[0]] - subject[s_best[1]];
  }
  out.greedy_differs = out.top_reference != out.top_subject;
  out.margin_to_flip = reference[out.top_reference] - reference[out.top_subject];
  const double winner = subject[out.top_reference];
  out.rank_in_subject = 1 + std::count_if(subject, subject + count, [&](double value) { return value > winner; });
  // Equals before it count too, as greedy decoding would take them first.
  out.rank_in_subject += std::count(subject, subject + out.top_reference, winner);
  r_best.resize(std::min<std::size_t>(r_best.size(), static_cast<std::size_t>(top_k)));
  s_best.resize(std::min<std::size_t>(s_best.size(), static_cast<std::size_t>(top_k)));
  std::sort(r_best.begin(), r_best.end());
  std::sort(s_best.begin(), s_best.end());
  std::vector<std::int64_t> shared;
  std::set_intersection(r_best.begin(), r_best.end(), s_best.begin(), s_best.end(), std::back_inserter(shared));
  out.top_k_shared = static_cast<double>(shared.size()) / static_cast<double>(r_best.size());
  return out;
}

LogitsResult CompareLogits(const Trace& reference, const Trace& subject, int top_k) {
  if (top_k < 1) throw UsageError("--top must be at least 1");
  LogitsResult result;
  result.top_k = top_k;
  DiffOptions options;
  options.only_site = "logits";
  result.diff = Diff(reference, subject, options);
  result.verdict = result.diff.verdict;
  result.reason = result.diff.reason;
  for (const SiteDiff& site : result.diff.sites) {
    if (!site.compared || site.estimate || site.layout.outer != 1) continue;  // a digest has no tokens' logits
    const PairLayout& layout = site.layout;
    const auto first = static_cast<std::size_t>(result.positions.size());
    result.positions.resize(first + static_cast<std::size_t>(layout.rows));
    ParallelFor(layout.rows, 1, [&](std::int64_t begin, std::int64_t) {
      std::vector<double> r(static_cast<std::size_t>(layout.inner)), s(r.size());
      DecodeF64(site.reference_entry->tensor, layout.reference.base + begin * layout.reference.row_stride, layout.inner,
                r.data());
      DecodeF64(site.subject_entry->tensor, layout.subject.base + begin * layout.subject.row_stride, layout.inner,
                s.data());
      LogitsPosition position = CompareLogitRows(r.data(), s.data(), layout.inner, top_k);
      position.step = site.step;
      position.position = site.first_position + begin;
      const PositionStats& stats = site.positions[static_cast<std::size_t>(begin)];
      position.diverged = stats.mismatches > 0 || !(stats.dd <= site.allowed * site.allowed * stats.rr);
      // Two logits that each move by noise of this rms come apart by sqrt(2) of it; four times that is all but certain.
      const double reach = 4 * std::sqrt(2.0) * position.noise;
      position.benign_tie = position.greedy_differs && !position.diverged && position.margin_to_flip <= reach;
      result.positions[first + static_cast<std::size_t>(begin)] = position;
    });
  }
  for (std::size_t i = 0; i < result.positions.size(); ++i) {
    if (!result.first_diverged && result.positions[i].diverged) result.first_diverged = i;
    if (!result.first_greedy_difference && result.positions[i].greedy_differs) result.first_greedy_difference = i;
  }
  // A few printed logits tell which token wins nowhere.
  const bool printed = std::any_of(result.diff.sites.begin(), result.diff.sites.end(),
                                   [](const SiteDiff& site) { return !site.evidence.is_null(); });
  if (result.positions.empty() && printed && result.verdict == Verdict::kWithinNoise) {
    result.verdict = Verdict::kIncomparable;
    result.reason = "no position has all its logits on both sides, only some that were printed";
  }
  if (result.positions.empty() && result.reason.empty()) result.reason = "no logits on both sides";
  return result;
}

double LogitsResult::TopAgreement() const {
  if (positions.empty()) return 0;
  const auto same = std::count_if(positions.begin(), positions.end(),
                                  [](const LogitsPosition& p) { return p.finite && !p.greedy_differs; });
  return static_cast<double>(same) / static_cast<double>(positions.size());
}

double LogitsResult::TopKAgreement() const {
  double sum = 0;
  for (const LogitsPosition& position : positions) sum += position.finite ? position.top_k_shared : 0;
  return positions.empty() ? 0 : sum / static_cast<double>(positions.size());
}

double LogitsResult::MeanKl() const {
  double sum = 0;
  std::int64_t finite = 0;
  for (const LogitsPosition& position : positions) {
    if (!position.finite) continue;
    sum += position.kl_forward;
    ++finite;
  }
  return finite == 0 ? 0 : sum / static_cast<double>(finite);
}

}  // namespace paritrace
