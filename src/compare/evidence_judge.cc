#include "compare/evidence_judge.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "compare/relations.h"
#include "core/decode.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

// A print tells something of a value that is at least this many times its uncertainty: one digit.
constexpr double kTelling = 10;
constexpr double kF32 = 0x1p-24;

// Sums over all values of a side that has them.
struct Moments {
  std::int64_t count = 0, nonfinite = 0;
  double sum = 0, magnitude = 0, squares = 0;
  double min = std::numeric_limits<double>::infinity(), max = -min;
};

Moments MomentsOf(const TensorView& tensor) {
  constexpr std::int64_t kPiece = 4096;  // a multiple of every block
  std::array<double, kPiece> values;
  Moments out;
  out.count = tensor.size();
  for (std::int64_t begin = 0; begin < out.count; begin += kPiece) {
    const std::int64_t count = std::min(kPiece, out.count - begin);
    DecodeF64(tensor, begin, count, values.data());
    for (std::int64_t i = 0; i < count; ++i) {
      const double value = values[static_cast<std::size_t>(i)];
      if (!std::isfinite(value)) {
        ++out.nonfinite;
        continue;
      }
      out.sum += value;
      out.magnitude += std::fabs(value);
      out.squares += value * value;
      out.min = std::min(out.min, value);
      out.max = std::max(out.max, value);
    }
  }
  return out;
}

double Of(StatisticKind kind, const Moments& moments) {
  const auto n = static_cast<double>(moments.count);
  switch (kind) {
    case StatisticKind::kSum: return moments.sum;
    case StatisticKind::kMean: return moments.sum / n;
    case StatisticKind::kRms: return std::sqrt(moments.squares / n);
    case StatisticKind::kNorm: return std::sqrt(moments.squares);
    case StatisticKind::kStd: {
      const double mean = moments.sum / n;
      return n > 1 ? std::sqrt(std::max(0.0, moments.squares - n * mean * mean) / (n - 1)) : std::nan("");
    }
    case StatisticKind::kMin: return moments.min;
    case StatisticKind::kMax: return moments.max;
  }
  return std::nan("");
}

// The statistics that a side without values has: a dump's, or those of our own index (exact to a few ULPs of their sums).
std::vector<Statistic> StatisticsOf(const TraceEntry& entry) {
  if (entry.evidence) return entry.evidence->statistics;
  std::vector<Statistic> out;
  if (!entry.stats.is_object()) return out;
  // Masked scores and non-finite values are left out of ours: nothing to hold against whole sums.
  for (const char* key : {"nan", "inf", "masked"}) {
    const auto found = entry.stats.find(key);
    if (found != entry.stats.end() && found->is_number() && found->get<double>() > 0) return out;
  }
  for (const StatisticKind kind :
       {StatisticKind::kMean, StatisticKind::kRms, StatisticKind::kMin, StatisticKind::kMax}) {
    const auto found = entry.stats.find(std::string(Name(kind)));
    if (found == entry.stats.end() || !found->is_number()) continue;
    const auto value = found->get<double>();
    out.push_back({kind, value, std::fabs(value) * 1e-9, false});
  }
  return out;
}

// A value of one side, at its place in that side's tensor.
struct Known {
  double value = 0, uncertainty = 0;
};

// Looks a side's values up by their place: all of them, or the printed ones.
class Side {
 public:
  Side(const TraceEntry& entry, const SideLayout& layout, const PairLayout& pair)
      : entry_(entry), side_(layout), pair_(pair) {}

  [[nodiscard]] std::optional<Known> At(std::int64_t index) const {
    if (entry_.has_data()) {
      double value = 0;
      const TensorView& tensor = entry_.tensor;
      if (index < 0 || index >= tensor.size() || IsBlockQuantised(tensor.dtype)) return std::nullopt;
      DecodeF64(tensor, index, 1, &value);
      return Known{value, 0};
    }
    if (!entry_.evidence) return std::nullopt;
    const auto& values = entry_.evidence->values;
    const auto found = std::lower_bound(values.begin(), values.end(), index,
                                        [](const PrintedValue& a, std::int64_t b) { return a.index < b; });
    if (found == values.end() || found->index != index) return std::nullopt;
    return Known{found->value, found->uncertainty};
  }

  // The pair's (outer, row, inner) of a place in this side's tensor; nullopt for a place that the layout leaves out.
  struct Place {
    std::int64_t outer = 0, row = 0, inner = 0;
  };
  [[nodiscard]] std::optional<Place> PlaceOf(std::int64_t index) const {
    struct Axis {
      std::int64_t stride, size;
      std::int64_t Place::*part;
    };
    std::array<Axis, 3> axes = {Axis{side_.outer_stride, pair_.outer, &Place::outer},
                                Axis{side_.row_stride, pair_.rows, &Place::row},
                                Axis{side_.inner_stride, pair_.inner, &Place::inner}};
    std::stable_sort(axes.begin(), axes.end(), [](const Axis& a, const Axis& b) { return a.stride > b.stride; });
    Place place;
    std::int64_t rest = index - side_.base;
    if (rest < 0) return std::nullopt;
    for (const Axis& axis : axes) {
      if (axis.size <= 1 || axis.stride <= 0) continue;
      place.*axis.part = std::min(rest / axis.stride, axis.size - 1);
      rest -= place.*axis.part * axis.stride;
    }
    if (rest != 0) return std::nullopt;
    if (!side_.order.empty()) {
      const auto found = std::find(side_.order.begin(), side_.order.end(), place.inner);
      if (found == side_.order.end()) return std::nullopt;
      place.inner = found - side_.order.begin();
    }
    return place;
  }

  [[nodiscard]] std::int64_t IndexOf(const Place& place) const {
    const std::int64_t column = side_.order.empty() ? place.inner : side_.order[static_cast<std::size_t>(place.inner)];
    return side_.base + place.outer * side_.outer_stride + place.row * side_.row_stride + column * side_.inner_stride;
  }

  [[nodiscard]] const TraceEntry& entry() const { return entry_; }

 private:
  const TraceEntry& entry_;
  const SideLayout& side_;
  const PairLayout& pair_;
};

struct PrintComparison {
  std::int64_t printed = 0, telling = 0, wrong = 0;
  double most = 0;  // the least that the furthest pair is apart, print taken off
  std::optional<std::int64_t> first_wrong_row;
};

class Judge {
 public:
  Judge(const EntryPair& pair, const ErrorBounds& bounds) : pair_(pair), bounds_(bounds) {}

  [[nodiscard]] PrintComparison Printed(const PairLayout& layout) const {
    const Side reference(*pair_.reference, layout.reference, layout), subject(*pair_.subject, layout.subject, layout);
    const bool reference_prints = !pair_.reference->has_data() && pair_.reference->evidence != nullptr;
    const Side& prints = reference_prints ? reference : subject;
    const Side& other = reference_prints ? subject : reference;
    PrintComparison out;
    if (prints.entry().has_data() || !prints.entry().evidence) return out;
    struct Pair {
      Known ours, theirs;
      std::int64_t row;
    };
    std::vector<Pair> pairs;
    double squares = 0;
    for (const PrintedValue& value : prints.entry().evidence->values) {
      const auto place = prints.PlaceOf(value.index);
      if (!place) continue;
      const auto known = other.At(other.IndexOf(*place));
      if (!known) continue;
      pairs.push_back({{value.value, value.uncertainty}, *known, place->row});
      if (std::isfinite(known->value)) squares += known->value * known->value;
    }
    // A small value's error comes from operands of the usual size, as for rows of values.
    const double usual = pairs.empty() ? 0 : std::sqrt(squares / static_cast<double>(pairs.size()));
    for (const Pair& pair : pairs) {
      ++out.printed;
      const bool masked = layout.masked_scores && (pair.ours.value <= -1e30 || pair.theirs.value <= -1e30);
      const double unsure = pair.ours.uncertainty + pair.theirs.uncertainty;
      const double size = std::max({std::fabs(pair.ours.value), std::fabs(pair.theirs.value), usual});
      const double apart = std::fabs(pair.ours.value - pair.theirs.value) - unsure;
      bool agrees;
      if (!std::isfinite(pair.ours.value) || !std::isfinite(pair.theirs.value) || masked) {
        const bool both_masked = layout.masked_scores && pair.ours.value <= -1e30 && pair.theirs.value <= -1e30;
        agrees = both_masked || pair.ours.value == pair.theirs.value ||
                 (std::isnan(pair.ours.value) && std::isnan(pair.theirs.value));
      } else {
        agrees = apart <= bounds_.value * size;
        out.most = std::max(out.most, apart);
        if (std::max(std::fabs(pair.ours.value), std::fabs(pair.theirs.value)) >= kTelling * unsure) ++out.telling;
      }
      if (agrees) continue;
      ++out.wrong;
      if (!out.first_wrong_row || pair.row < *out.first_wrong_row) out.first_wrong_row = pair.row;
    }
    return out;
  }

  // What both sides know of the whole tensor, and whether rounding explains how they differ.
  // Returns the first contradiction in words; "" where there is none.
  [[nodiscard]] std::string Statistics(const PairLayout& layout, Json& rows) const {
    const TraceEntry &reference = *pair_.reference, &subject = *pair_.subject;
    // Only where both speak of the same values.
    if (reference.tensor.size() != subject.tensor.size() || layout.Count() != reference.tensor.size() ||
        layout.Count() == 0)
      return "";
    if (pair_.site.ends_with("attn.scores")) return "";  // masked in every engine's own way
    const auto n = static_cast<double>(layout.Count());
    std::optional<Moments> ours, theirs;
    if (reference.has_data()) ours = MomentsOf(reference.tensor);
    if (subject.has_data()) theirs = MomentsOf(subject.tensor);
    if ((ours && ours->nonfinite > 0) || (theirs && theirs->nonfinite > 0)) return "";
    const std::vector<Statistic> known = ours ? StatisticsOf(subject) : StatisticsOf(reference);
    const std::vector<Statistic> others = ours || theirs ? std::vector<Statistic>() : StatisticsOf(subject);
    // The size of the signal, from whatever tells it.
    double rms = 0;
    for (const auto* moments : {&ours, &theirs}) {
      if (*moments) rms = std::max(rms, std::sqrt((*moments)->squares / n));
    }
    for (const auto* list : {&known, &others}) {
      for (const Statistic& statistic : *list) {
        const double value = std::fabs(statistic.value);
        if (statistic.kind == StatisticKind::kRms || statistic.kind == StatisticKind::kStd) rms = std::max(rms, value);
        if (statistic.kind == StatisticKind::kNorm) rms = std::max(rms, value / std::sqrt(n));
      }
    }
    std::string contradiction;
    for (const Statistic& statistic : known) {
      double other = std::nan(""), slack = statistic.uncertainty;
      bool in_f32 = statistic.summed_in_f32;
      if (ours || theirs) {
        other = Of(statistic.kind, ours ? *ours : *theirs);
      } else {
        const auto found = std::find_if(others.begin(), others.end(),
                                        [&](const Statistic& candidate) { return candidate.kind == statistic.kind; });
        if (found == others.end()) continue;
        other = found->value;
        slack += found->uncertainty;
        in_f32 = in_f32 || found->summed_in_f32;
      }
      if (!std::isfinite(other) || !std::isfinite(statistic.value)) continue;
      // Worst case of n additions in f32 (Higham, Accuracy and Stability, section 4.2), relative to the sum of magnitudes.
      const double sums = in_f32 ? n * kF32 : 0;
      const double bound = slack +
                           Allowed(statistic.kind, n, rms, std::max(std::fabs(other), std::fabs(statistic.value))) +
                           sums * SumScale(statistic.kind, n, rms);
      const double reference_value = ours ? other : statistic.value, subject_value = ours ? statistic.value : other;
      rows.push_back({{"kind", Name(statistic.kind)}, {"reference", reference_value}, {"subject", subject_value}});
      if (std::fabs(other - statistic.value) <= bound) continue;
      const std::string factor = Factor(statistic.kind, reference_value, subject_value, slack);
      if (!factor.empty()) rows.back()["factor"] = factor;
      if (!contradiction.empty()) continue;
      contradiction = fmt::format("{} {:.6g} against {:.6g}", Name(statistic.kind), reference_value, subject_value);
      if (!factor.empty()) contradiction += fmt::format(", which is {} of it", factor);
    }
    return contradiction;
  }

 private:
  // What the subject's values were multiplied by, if that has a name ("1/sqrt(2560)") and all that is known is their size.
  [[nodiscard]] std::string Factor(StatisticKind kind, double reference, double subject, double slack) const {
    if ((kind != StatisticKind::kRms && kind != StatisticKind::kNorm) || !(reference > 0) || !(subject > 0)) return "";
    const Shape& shape = pair_.reference->tensor.shape;
    if (shape.empty()) return "";
    // Both sizes are known to their print, and round in proportion to themselves.
    const double tolerance = 2 * bounds_.row + slack / std::min(reference, subject);
    // With a wide one some name would always fit.
    if (!(tolerance <= 0.01)) return "";
    return NameFactor(subject / reference, tolerance, {shape.back()});
  }

  // How far the statistic may move where rms(difference) is at most bounds.row * rms (Cauchy and Schwarz).
  [[nodiscard]] double Allowed(StatisticKind kind, double n, double rms, double largest) const {
    switch (kind) {
      case StatisticKind::kSum: return n * bounds_.row * rms;
      case StatisticKind::kNorm: return std::sqrt(n) * bounds_.row * rms;
      case StatisticKind::kMean:
      case StatisticKind::kRms: return bounds_.row * rms;
      case StatisticKind::kStd: return bounds_.row * rms * std::sqrt(n / std::max(n - 1, 1.0));
      case StatisticKind::kMin:
      case StatisticKind::kMax: return bounds_.value * std::max(largest, rms);
    }
    return 0;
  }

  static double SumScale(StatisticKind kind, double n, double rms) {
    switch (kind) {
      case StatisticKind::kSum: return n * rms;
      case StatisticKind::kNorm: return std::sqrt(n) * rms;
      case StatisticKind::kMin:
      case StatisticKind::kMax: return 0;
      default: return rms;
    }
  }

  const EntryPair& pair_;
  const ErrorBounds& bounds_;
};

// Other readings are tried only where the first contradicts, and believed only where nothing contradicts any more.
std::vector<LayoutCandidate> Readings(const EntryPair& pair, bool row_order_may_differ) {
  constexpr std::int64_t kWidest = 1 << 16;  // a shape that no values stand behind may claim any width
  std::vector<LayoutCandidate> readings = pair.candidates;
  const LayoutCandidate base = pair.candidates.front();
  if (!row_order_may_differ || base.layout.inner > kWidest) return readings;
  for (std::int64_t head_dim = 4; head_dim <= 512; head_dim += 2) {
    for (const bool subject_is_interleaved : {true, false}) {
      if (auto reading = WithRowOrder(base, head_dim, subject_is_interleaved)) readings.push_back(*std::move(reading));
    }
  }
  return readings;
}

}  // namespace

bool HasEvidence(const TraceEntry& reference, const TraceEntry& subject) {
  const auto tells = [](const TraceEntry& entry) {
    return !entry.has_data() && (entry.evidence || entry.stats.is_object());
  };
  return (tells(reference) && (tells(subject) || subject.has_data())) || (tells(subject) && reference.has_data());
}

EvidenceJudgement JudgeEvidence(const EntryPair& pair, const ErrorBounds& bounds, bool row_order_may_differ) {
  const Judge judge(pair, bounds);
  EvidenceJudgement out;
  const LayoutCandidate* taken = &pair.candidates.front();
  PrintComparison printed = judge.Printed(taken->layout);
  const std::vector<LayoutCandidate> readings =
      printed.wrong > 0 ? Readings(pair, row_order_may_differ) : std::vector<LayoutCandidate>();
  for (const LayoutCandidate& reading : readings) {
    if (printed.wrong == 0) break;
    PrintComparison other = judge.Printed(reading.layout);
    if (other.wrong > 0 || other.printed < printed.printed) continue;
    printed = other;
    taken = &reading;
  }
  Json statistics = Json::array();
  const std::string contradiction = judge.Statistics(taken->layout, statistics);
  const std::int64_t of = pair.reference->tensor.size();
  out.relation = taken->relation;
  out.printed = printed.printed;
  out.telling = printed.telling;
  out.json = {{"printed", printed.printed}, {"telling", printed.telling}, {"of", of}};
  if (printed.printed > 0) out.json["max_abs_low"] = std::max(printed.most, 0.0);
  out.json["statistics"] = statistics;
  if (printed.wrong > 0) {
    out.verdict = EvidenceVerdict::kDiverged;
    out.row = printed.first_wrong_row;
    out.note =
        fmt::format("{} of {} printed values differ by more than print and rounding", printed.wrong, printed.printed);
  } else if (!contradiction.empty()) {
    out.verdict = EvidenceVerdict::kDiverged;
    out.note = fmt::format("its statistics contradict: {}", contradiction);
  } else if (printed.telling > 0) {
    out.verdict = EvidenceVerdict::kAgrees;
    out.note = fmt::format("judged by {} printed values of {}{}, within their print's rounding", printed.printed, of,
                           statistics.empty() ? "" : " and statistics of all");
  } else {
    out.note = printed.printed > 0 ? "the printed values are smaller than their print resolves: no evidence either way"
               : !statistics.empty()
                   ? "statistics agree, which is no evidence that the values do; there are no values to compare"
                   : "neither values nor statistics that both sides have";
  }
  return out;
}

}  // namespace paritrace
