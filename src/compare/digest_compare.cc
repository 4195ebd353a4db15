#include "compare/digest_compare.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>

#include "core/blake3_hash.h"
#include "core/decode.h"
#include "core/hash.h"
#include "trace/digest.h"

namespace paritrace {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
// Relative error of a norm in a digest: half a unit of its last digit, at worst where it begins with 1; and as much
// again for the rounding of sums.
const double kNormError = std::pow(10.0, 1 - TensorDigest::kDigits);

// One side, its rows in the layout's order.
struct Side {
  std::optional<Sketch> sketch;
  std::vector<double> energy;  // [rows]
  std::int64_t nan = 0, inf = 0;
  bool counts_known = false;  // nan and inf are those of the compared rows
  double min = kUnknown, max = kUnknown;
};

std::int64_t PlaceIn(const SideLayout& side, std::int64_t outer, std::int64_t row, std::int64_t inner) {
  const std::int64_t column = side.order.empty() ? inner : side.order[static_cast<std::size_t>(inner)];
  return side.base + outer * side.outer_stride + row * side.row_stride + column * side.inner_stride;
}

// The position of each of the layout's rows in a digest's plan; nullopt where the layout's rows are no positions.
std::optional<std::vector<std::int64_t>> PositionsOf(const SketchPlan& plan, const PairLayout& layout,
                                                     const SideLayout& side, bool padded) {
  if (layout.Count() == 0) return std::nullopt;
  const std::int64_t features = layout.outer * layout.inner;
  // Padding beyond the keys is masked or zero, and counts for nothing in a sketch.
  if (padded ? features > plan.features : features != plan.features) return std::nullopt;
  std::vector<std::int64_t> positions;
  for (std::int64_t row = 0; row < layout.rows; ++row) {
    const std::int64_t first = PlaceIn(side, 0, row, 0);
    const std::int64_t last = PlaceIn(side, layout.outer - 1, row, layout.inner - 1);
    if (first < 0 || last < 0 || first >= plan.values || last >= plan.values) return std::nullopt;
    const std::int64_t position = plan.PositionOf(first);
    if (plan.PositionOf(last) != position) return std::nullopt;
    if (!positions.empty() && position <= positions.back()) return std::nullopt;
    positions.push_back(position);
  }
  return positions;
}

double Number(const nlohmann::ordered_json& stats, const char* key) {
  const auto found = stats.is_object() ? stats.find(key) : stats.end();
  if (!stats.is_object() || found == stats.end() || !found->is_number()) return kUnknown;
  return found->get<double>();
}

// The norms that a digest holds, as energies of its positions.
std::optional<std::vector<double>> EnergiesOf(const TraceEntry& entry, const SketchPlan& plan) {
  if (!entry.stats.is_object()) return std::nullopt;
  const auto rms = entry.stats.find("position_rms");
  if (rms == entry.stats.end() || !rms->is_array() || static_cast<std::int64_t>(rms->size()) != plan.positions)
    return std::nullopt;
  std::vector<double> energies;
  for (const auto& value : *rms) {
    if (!value.is_number()) return std::nullopt;
    const double number = value.get<double>();
    energies.push_back(number * number * static_cast<double>(plan.features));
  }
  return energies;
}

std::optional<Side> FromDigest(const TraceEntry& entry, const std::vector<std::int64_t>& positions, bool want_sketch) {
  const SketchPlan plan(entry.tensor.shape);
  const auto energies = EnergiesOf(entry, plan);
  if (!energies) return std::nullopt;
  Side side;
  for (const std::int64_t position : positions) side.energy.push_back((*energies)[static_cast<std::size_t>(position)]);
  if (want_sketch) side.sketch = Sketch::Decode(entry.sketch, entry.tensor.shape);
  const double nan = Number(entry.stats, "nan"), inf = Number(entry.stats, "inf");
  if (static_cast<std::int64_t>(positions.size()) == plan.positions && nan >= 0 && inf >= 0) {
    side.counts_known = true;
    side.nan = static_cast<std::int64_t>(nan);
    side.inf = static_cast<std::int64_t>(inf);
    side.min = Number(entry.stats, "min");
    side.max = Number(entry.stats, "max");
  }
  return side;
}

// Reads a side's values as the layout says; with `place`, sketches them as if they stood where that side has them.
Side FromValues(const TraceEntry& entry, const PairLayout& layout, const SideLayout& own, const SideLayout* place,
                const Shape& shape) {
  Side side;
  if (place != nullptr) side.sketch.emplace(shape);
  side.energy.resize(static_cast<std::size_t>(layout.rows));
  side.counts_known = true;
  // A block type decodes in whole blocks only. No engine hands activations on in one, so this need not be fast.
  std::vector<double> all;
  TensorView tensor = entry.tensor;
  const double masked = MaskBound(tensor.dtype);
  if (IsBlockQuantised(tensor.dtype)) {
    all = DecodeAll(tensor);
    tensor.dtype = DType::kF64;
    tensor.bytes = std::as_bytes(std::span(all));
  }
  std::vector<double> values(static_cast<std::size_t>(layout.inner)), raw(values.size());
  for (std::int64_t outer = 0; outer < layout.outer; ++outer) {
    for (std::int64_t row = 0; row < layout.rows; ++row) {
      if (own.inner_stride == 1) {
        DecodeF64(tensor, own.base + outer * own.outer_stride + row * own.row_stride, layout.inner, raw.data());
        for (std::size_t i = 0; i < values.size(); ++i)
          values[i] = own.order.empty() ? raw[i] : raw[static_cast<std::size_t>(own.order[i])];
      } else {
        for (std::int64_t i = 0; i < layout.inner; ++i)
          DecodeF64(tensor, PlaceIn(own, outer, row, i), 1, &values[static_cast<std::size_t>(i)]);
      }
      for (double& value : values) {
        if (layout.masked_scores && value <= masked) {
          value = 0;
        } else if (std::isfinite(value)) {
          side.energy[static_cast<std::size_t>(row)] += value * value;
          side.min = std::fmin(side.min, value);
          side.max = std::fmax(side.max, value);
        } else {
          ++(std::isnan(value) ? side.nan : side.inf);
        }
      }
      if (place == nullptr) continue;
      if (place->inner_stride == 1 && place->order.empty()) {
        side.sketch->Add(PlaceIn(*place, outer, row, 0), values);
      } else {
        for (std::int64_t i = 0; i < layout.inner; ++i)
          side.sketch->Add(PlaceIn(*place, outer, row, i), std::span(values).subspan(static_cast<std::size_t>(i), 1));
      }
    }
  }
  return side;
}

bool SamePlaces(const SideLayout& a, const SideLayout& b) {
  return std::tie(a.base, a.outer_stride, a.row_stride, a.inner_stride, a.order) ==
         std::tie(b.base, b.outer_stride, b.row_stride, b.inner_stride, b.order);
}

// Cauchy and Schwarz, row by row: what the norms alone leave of the difference.
Estimate NormBounds(const Side& reference, const Side& subject, std::size_t begin, std::size_t end) {
  Estimate out;
  for (std::size_t row = begin; row < end; ++row) {
    const double r = std::sqrt(reference.energy[row]), s = std::sqrt(subject.energy[row]);
    const double slack = kNormError * (r + s);
    const double least = std::max(0.0, std::fabs(r - s) - slack), most = r + s + slack;
    out.low += least * least;
    out.high += most * most;
  }
  out.value = out.low;
  return out;
}

// Both hold, so the truth is in both. An estimate whose interval misses the certain one gives way to it.
Estimate Within(const Estimate& estimate, const Estimate& certain) {
  Estimate out = estimate;
  out.low = std::clamp(out.low, certain.low, certain.high);
  out.high = std::clamp(out.high, certain.low, certain.high);
  out.value = std::clamp(out.value, out.low, out.high);
  return out;
}

double Ratio(double difference, double energy) {
  if (difference == 0) return 0;
  return energy > 0 ? difference / energy : kInfinity;
}

Estimate NmseOf(const Estimate& difference, double energy) {
  return {Ratio(difference.value, energy), Ratio(difference.low, energy), Ratio(difference.high, energy)};
}

double CosineOf(double rr, double ss, double dd) {
  if (rr == 0 && ss == 0) return 1;
  if (rr == 0 || ss == 0) return 0;
  return std::clamp((rr + ss - dd) / 2 / std::sqrt(rr * ss), -1.0, 1.0);
}

class Comparison {
 public:
  Comparison(Side reference, Side subject, std::int64_t features)
      : reference_(std::move(reference)), subject_(std::move(subject)), features_(features) {}

  // positions: [rows] in the sketches' plan.
  std::optional<DigestComparison> BySketch(const std::vector<std::int64_t>& positions) {
    const SketchPlan& plan = reference_.sketch->plan();
    std::vector<std::int64_t> held(static_cast<std::size_t>(plan.groups));
    for (const std::int64_t position : positions) ++held[static_cast<std::size_t>(position / plan.positions_per_group)];
    std::vector<bool> wanted(held.size());
    for (std::size_t g = 0; g < held.size(); ++g) wanted[g] = held[g] == plan.PositionsIn(static_cast<std::int64_t>(g));
    const DifferenceEstimate difference = EstimateDifference(*reference_.sketch, *subject_.sketch, wanted);
    DigestComparison out;
    Estimate certain;
    for (std::size_t row = 0; row < positions.size();) {
      const auto group = static_cast<std::size_t>(positions[row] / plan.positions_per_group);
      const auto rows = static_cast<std::size_t>(held[group]);
      if (wanted[group]) {
        const Estimate bounds = AddGroup(row, rows, difference.groups[group], out);
        certain.low += bounds.low;
        certain.high += bounds.high;
        if (plan.positions_per_group == 1) AddPosition(row, out);
      }
      row += rows;
    }
    if (out.groups.empty()) return std::nullopt;
    if (out.positions.size() != positions.size()) {
      out.positions.clear();
      out.estimate.position_nmse.clear();
    }
    out.difference = Within(difference.total, certain);
    Finish(out);
    return out;
  }

  DigestComparison ByNorms() {
    DigestComparison out;
    out.estimate.by_norms = true;
    for (std::size_t row = 0; row < reference_.energy.size(); ++row) {
      const Estimate bounds = AddGroup(row, 1, {0, 0, kInfinity}, out);
      AddPosition(row, out);
      out.difference.low += bounds.low;
      out.difference.high += bounds.high;
    }
    out.difference.value = out.difference.low;
    Finish(out);
    return out;
  }

 private:
  // Returns the certain bounds.
  Estimate AddGroup(std::size_t row, std::size_t rows, const Estimate& difference, DigestComparison& out) const {
    const Estimate certain = NormBounds(reference_, subject_, row, row + rows);
    RowGroup group{static_cast<std::int64_t>(row), static_cast<std::int64_t>(rows), 0, Within(difference, certain)};
    for (std::size_t i = row; i < row + rows; ++i) {
      group.reference_energy += reference_.energy[i];
      out.stats.rr.Add(reference_.energy[i]);
      out.stats.ss.Add(subject_.energy[i]);
    }
    out.stats.count += group.rows * features_;
    out.groups.push_back(group);
    return certain;
  }

  // Of the group added last, which is this row.
  void AddPosition(std::size_t row, DigestComparison& out) const {
    const Estimate& difference = out.groups.back().difference;
    PositionStats position;
    position.max_abs = kUnknown;
    position.rr = reference_.energy[row];
    position.ss = subject_.energy[row];
    position.dd = difference.value;
    position.rs = (position.rr + position.ss - position.dd) / 2;
    out.positions.push_back(position);
    out.estimate.position_nmse.push_back(NmseOf(difference, position.rr));
  }

  void Finish(DigestComparison& out) const {
    PairStats& stats = out.stats;
    SiteEstimate& estimate = out.estimate;
    const double rr = stats.rr.Total(), ss = stats.ss.Total();
    stats.dd.Add(out.difference.value);
    stats.rs.Add((rr + ss - out.difference.value) / 2);
    stats.abs.value = stats.max_abs = stats.max_reference = stats.max_subject = kUnknown;
    estimate.nmse = NmseOf(out.difference, rr);
    estimate.cosine = {CosineOf(rr, ss, out.difference.value), CosineOf(rr, ss, out.difference.high),
                       CosineOf(rr, ss, out.difference.low)};
    estimate.max_abs_low = std::sqrt(out.difference.low / static_cast<double>(std::max<std::int64_t>(stats.count, 1)));
    estimate.max_abs_high = std::sqrt(out.difference.high);
    if (!reference_.counts_known || !subject_.counts_known) return;
    stats.nan_reference = reference_.nan;
    stats.nan_subject = subject_.nan;
    stats.inf_reference = reference_.inf;
    stats.inf_subject = subject_.inf;
    stats.nan_either = std::max(reference_.nan, subject_.nan);
    stats.inf_either = std::max(reference_.inf, subject_.inf);
    stats.unmeasured = std::min(stats.count, stats.nan_either + stats.inf_either);
    stats.mismatches = std::abs(reference_.nan - subject_.nan) + std::abs(reference_.inf - subject_.inf);
    // The largest values cannot be further apart than some pair is, nor any pair further than they span.
    if (stats.unmeasured > 0) return;
    for (const double apart : {std::fabs(reference_.max - subject_.max), std::fabs(reference_.min - subject_.min)}) {
      if (std::isfinite(apart)) estimate.max_abs_low = std::max(estimate.max_abs_low, apart);
    }
    const double span = std::max(reference_.max - subject_.min, subject_.max - reference_.min);
    if (std::isfinite(span)) estimate.max_abs_high = std::min(estimate.max_abs_high, span);
    estimate.max_abs_high = std::max(estimate.max_abs_high, estimate.max_abs_low);
  }

  Side reference_, subject_;
  std::int64_t features_;
};

}  // namespace

std::optional<DigestComparison> CompareDigests(const TraceEntry& reference, const TraceEntry& subject,
                                               const PairLayout& layout, DigestMethod method) {
  // A head's probabilities behind the last key are zero, its scores masked.
  const bool padded = reference.site.ends_with("attn.scores") || reference.site.ends_with("attn.probs");
  const SketchPlan reference_plan(reference.tensor.shape), subject_plan(subject.tensor.shape);
  // First: a shape without values may claim any number of rows, a list of norms has as many as it has.
  if (!reference.has_data() && !EnergiesOf(reference, reference_plan)) return std::nullopt;
  if (!subject.has_data() && !EnergiesOf(subject, subject_plan)) return std::nullopt;
  std::optional<std::vector<std::int64_t>> reference_rows, subject_rows;
  if (!reference.has_data()) {
    reference_rows = PositionsOf(reference_plan, layout, layout.reference, padded);
    if (!reference_rows) return std::nullopt;
  }
  if (!subject.has_data()) {
    subject_rows = PositionsOf(subject_plan, layout, layout.subject, padded);
    if (!subject_rows) return std::nullopt;
  }
  const bool want_sketch = method == DigestMethod::kSketch;
  const auto side = [&](const TraceEntry& entry, const SideLayout& own, const auto& rows, const TraceEntry& other,
                        const SideLayout& place) -> std::optional<Side> {
    if (!entry.has_data()) return FromDigest(entry, *rows, want_sketch);
    return FromValues(entry, layout, own, want_sketch && !other.has_data() ? &place : nullptr, other.tensor.shape);
  };
  auto ours = side(reference, layout.reference, reference_rows, subject, layout.subject);
  auto theirs = side(subject, layout.subject, subject_rows, reference, layout.reference);
  if (!ours || !theirs) return std::nullopt;
  const bool both_digests = reference_rows && subject_rows;
  const bool meet = ours->sketch && theirs->sketch && ours->sketch->plan() == theirs->sketch->plan() &&
                    (!both_digests || SamePlaces(layout.reference, layout.subject));
  Comparison comparison(*std::move(ours), *std::move(theirs), layout.outer * layout.inner);
  if (meet) {
    if (auto out = comparison.BySketch(reference_rows ? *reference_rows : *subject_rows)) return out;
  }
  return comparison.ByNorms();
}

bool SameByHash(const TraceEntry& reference, const TraceEntry& subject) {
  constexpr std::string_view kBlake3 = "blake3:";
  if (reference.hash.starts_with(kBlake3) || subject.hash.starts_with(kBlake3)) {
    // Of the values as f32, whatever the dtype; so a side that has its values can be hashed alike.
    const auto hash = [&](const TraceEntry& entry) {
      if (entry.hash.starts_with(kBlake3)) return entry.hash;
      return entry.has_data() ? Blake3OfValues(entry.tensor) : std::string();
    };
    return reference.tensor.size() == subject.tensor.size() && hash(reference) == hash(subject);
  }
  if (reference.tensor.dtype != subject.tensor.dtype) return false;
  const auto hash = [](const TraceEntry& entry) {
    return entry.has_data() ? HashBytes(entry.tensor.bytes) : entry.hash;
  };
  const std::string ours = hash(reference);
  return !ours.empty() && ours == hash(subject);
}

}  // namespace paritrace
