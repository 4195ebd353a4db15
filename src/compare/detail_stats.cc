#include "compare/detail_stats.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "compare/pair_stats.h"
#include "compare/tile_reader.h"

namespace paritrace {

TypePrecision PrecisionOf(DType dtype) {
  switch (dtype) {
    case DType::kF64: return {53, -1022};
    case DType::kF16: return {11, -14};
    case DType::kBF16: return {8, -126};
    case DType::kF8E4M3: return {4, -6};
    case DType::kF8E5M2: return {3, -14};
    default: return {24, -126};
  }
}

TypePrecision CoarserPrecision(DType reference, DType subject) {
  const TypePrecision ours = PrecisionOf(reference), theirs = PrecisionOf(subject);
  return theirs.digits < ours.digits ? theirs : ours;
}

void DetailStats::Merge(const DetailStats& other) {
  exponents.Merge(other.exponents);
  skipped += other.skipped;
  if (channel_error.empty()) {
    unit = other.unit;
    channel_error = other.channel_error;
    channel_energy = other.channel_energy;
    return;
  }
  for (std::size_t i = 0; i < other.channel_error.size(); ++i) {
    channel_error[i] += other.channel_error[i];
    channel_energy[i] += other.channel_energy[i];
  }
}

std::int64_t DetailStats::Counted() const {
  return std::accumulate(exponents.bins.begin(), exponents.bins.end(), std::int64_t{0});
}

double DetailStats::RelativeErrorQuantile(double quantile) const {
  const double wanted = quantile * static_cast<double>(Counted());
  std::int64_t seen = 0;
  for (std::size_t i = 0; i < exponents.bins.size(); ++i) {
    seen += exponents.bins[i];
    if (static_cast<double>(seen) < wanted || seen == 0) continue;
    if (i == 0) return 0;
    // |r-s| < 2^(floor(log2|r-s|) + 1) and |r| >= 2^floor(log2|r|).
    return std::ldexp(1.0, static_cast<int>(i) - 128 + 1);
  }
  return 0;
}

double DetailStats::UlpQuantile(double quantile) const {
  return RelativeErrorQuantile(quantile) * std::ldexp(1.0, unit.digits - 1);
}

double DetailStats::MaxUlp() const { return exponents.max_scaled * std::ldexp(1.0, unit.digits - 1); }

DetailCollector::DetailCollector(const TensorView& reference, const TensorView& subject, const PairLayout& layout)
    : reference_(reference),
      subject_(subject),
      layout_(layout),
      unit_(CoarserPrecision(reference.dtype, subject.dtype)),
      exact_in_f32_(IsExactInF32(reference.dtype) && IsExactInF32(subject.dtype)) {}

DetailStats DetailCollector::Start() const {
  DetailStats stats;
  stats.unit = unit_;
  stats.channel_error.resize(static_cast<std::size_t>(layout_.outer * layout_.inner));
  stats.channel_energy.resize(stats.channel_error.size());
  return stats;
}

void DetailCollector::Add(std::int64_t outer, std::int64_t row, std::int64_t rows, std::int64_t inner,
                          std::int64_t count, DetailStats& to) const {
  constexpr std::int64_t kTile = TileReader<double>::kTile;
  TileReader<double> reference(reference_, layout_.reference), subject(subject_, layout_.subject);
  const double nothing = std::numeric_limits<double>::quiet_NaN();  // no value is <= NaN
  const double reference_mask = layout_.masked_scores ? MaskBound(reference_.dtype) : nothing;
  const double subject_mask = layout_.masked_scores ? MaskBound(subject_.dtype) : nothing;
  for (std::int64_t r = row; r < row + rows; ++r) {
    for (std::int64_t done = 0; done < count; done += kTile) {
      const std::int64_t now = std::min(kTile, count - done);
      const double* a = reference.Read(outer, r, inner + done, now);
      const double* b = subject.Read(outer, r, inner + done, now);
      const auto channel = static_cast<std::size_t>(outer * layout_.inner + inner + done);
      for (std::int64_t i = 0; i < now; ++i) {
        const bool masked = a[i] <= reference_mask || b[i] <= subject_mask;
        if (masked || !std::isfinite(a[i]) || !std::isfinite(b[i])) {
          ++to.skipped;
          continue;
        }
        const double difference = a[i] - b[i];
        const auto rounded = static_cast<double>(static_cast<float>(difference));  // as in the kernels' exponents
        AddExponent(a[i], b[i], exact_in_f32_ && std::isfinite(rounded) ? rounded : difference, unit_.least_exponent,
                    to.exponents);
        to.channel_error[channel + static_cast<std::size_t>(i)] += difference * difference;
        to.channel_energy[channel + static_cast<std::size_t>(i)] += a[i] * a[i];
      }
    }
  }
}

}  // namespace paritrace
