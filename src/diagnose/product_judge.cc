#include "diagnose/product_judge.h"

#include <algorithm>
#include <cmath>

namespace paritrace {
namespace {

constexpr double kMostFloor = 0.1;
// A difference of the inputs may point where the product amplifies more than it does between any two tokens.
constexpr double kMargin = 2;
constexpr std::int64_t kMostRows = 64;  // for the gain

double Square(std::span<const double> row) {
  double sum = 0;
  for (const double x : row) sum += x * x;
  return sum;
}

double SquaredDistance(std::span<const double> a, std::span<const double> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

// Largest squared amplification of a difference between two tokens; of a token itself where there is only one.
double SquaredGain(const Value& x, const RecordedSite& y) {
  const std::int64_t rows = std::min(x.rows(), kMostRows);
  double gain = 0;
  const auto known = [&](std::int64_t t) { return y.token_known[static_cast<std::size_t>(t)]; };
  for (std::int64_t i = 0; i < rows; ++i) {
    if (!known(i)) continue;
    if (rows == 1) gain = Square(y.value.row(i)) / Square(x.row(i));
    for (std::int64_t j = 0; j < i; ++j) {
      const double apart = SquaredDistance(x.row(i), x.row(j));
      if (known(j) && apart > 0) gain = std::max(gain, SquaredDistance(y.value.row(i), y.value.row(j)) / apart);
    }
  }
  return gain;
}

// Relative rms error of weights in a type: half a step over sqrt(3) of blocks whose largest is about 2.1 times their rms.
double StepOf(DType type) {
  switch (type) {
    case DType::kF64:
    case DType::kF32: return 0;
    case DType::kF16: return 0x1p-11;
    case DType::kBF16: return 0x1p-8;
    case DType::kQ8_0:
    case DType::kQ8_1:
    case DType::kQ8_K: return 2.1 / 127;
    case DType::kQ6_K: return 2.1 / 32;
    case DType::kQ5_0:
    case DType::kQ5_1:
    case DType::kQ5_K: return 2.1 / 16;
    case DType::kQ4_0:
    case DType::kQ4_1:
    case DType::kQ4_K: return 2.1 / 8;
    default: return 1;
  }
}

}  // namespace

double ProductNoise(const EngineRounding& engine, std::int64_t terms) {
  return std::sqrt(engine.storage * engine.storage + static_cast<double>(terms) * engine.sums * engine.sums);
}

double WeightDifference(const TraceHeader& reference, const TraceHeader& subject) {
  const auto types = [](const TraceHeader& header) {
    std::vector<std::string> names;
    const auto run = header.raw.is_object() ? header.raw.find("run") : header.raw.end();
    if (!header.raw.is_object() || run == header.raw.end() || !run->is_object() || !run->contains("weight_types"))
      return names;
    for (const auto& type : (*run)["weight_types"]) {
      if (type.is_string()) names.push_back(type.get<std::string>());
    }
    std::ranges::sort(names);
    return names;
  };
  const std::vector<std::string> ours = types(reference), theirs = types(subject);
  if (ours == theirs) return 0;
  double step = 0;
  for (const auto* names : {&ours, &theirs}) {
    for (const std::string& name : *names) {
      const auto type = ParseDType(name);
      if (type) step = std::max(step, StepOf(*type));
    }
  }
  return step / 2;
}

std::optional<SiteStats> MeasureProduct(const ProductSides& sides) {
  const RecordedSite &ours = sides.reference_out, &theirs = sides.subject_out;
  if (ours.value.cols() != theirs.value.cols()) return std::nullopt;
  const std::int64_t rows = std::min(ours.value.rows(), theirs.value.rows()), cols = ours.value.cols();
  const double gain = sides.reference_in != nullptr ? SquaredGain(*sides.reference_in, ours) : 0;
  const double noise = sides.reference_noise * sides.reference_noise + sides.subject_noise * sides.subject_noise;
  // A channel's error is as large as its row of the matrix: those that give more than others have more.
  std::vector<double> channel(static_cast<std::size_t>(cols));
  for (std::int64_t t = 0; t < rows; ++t) {
    if (!ours.token_known[static_cast<std::size_t>(t)]) continue;
    for (std::int64_t c = 0; c < cols; ++c) {
      const double y = ours.value.row(t)[static_cast<std::size_t>(c)];
      channel[static_cast<std::size_t>(c)] += y * y;
    }
  }
  double mean = 0;
  for (const double square : channel) mean += square / static_cast<double>(cols);
  for (double& square : channel) square = mean > 0 ? std::max(1.0, square / mean) : 1;

  SiteStats stats;
  stats.by_token.resize(static_cast<std::size_t>(theirs.value.rows()));
  stats.by_channel.resize(static_cast<std::size_t>(cols));
  if (sides.head_width > 0) stats.by_head.resize(static_cast<std::size_t>(cols / sides.head_width));
  double total_rounding = 0, total_inherited = 0;
  for (std::int64_t t = 0; t < rows; ++t) {
    const auto at = static_cast<std::size_t>(t);
    if (!ours.token_known[at] || !theirs.token_known[at]) continue;
    double inputs = 0, apart = 0;
    if (sides.reference_in != nullptr) {
      inputs = Square(sides.reference_in->row(t));
      apart = SquaredDistance(sides.reference_in->row(t), sides.subject_in->row(t));
    }
    const double size = std::max(Square(ours.value.row(t)), gain * inputs) / static_cast<double>(cols);
    const double rounding = noise * size, inherited = kMargin * kMargin * gain * apart / static_cast<double>(cols);
    const double floor = rounding + inherited;
    if (!std::isfinite(floor)) {
      stats.unjudged += cols;
      continue;
    }
    total_rounding += rounding;
    total_inherited += inherited;
    for (std::int64_t c = 0; c < cols; ++c) {
      const auto i = static_cast<std::size_t>(c);
      const double x = theirs.value.row(t)[i], f = ours.value.row(t)[i];
      ErrorSums value{.count = 1};
      if (std::isfinite(x) && std::isfinite(f)) {
        value.error = (x - f) * (x - f);
        value.sampled = floor * channel[i];
        stats.signal += f * f;
        stats.exact += x == f ? 1 : 0;
      } else {
        value.broken = std::isfinite(x) == std::isfinite(f) ? 0 : 1;
      }
      const auto add = [&](ErrorSums& group) {
        group.error += value.error;
        group.sampled += value.sampled;
        group.count += 1;
        group.broken += value.broken;
      };
      add(stats.all);
      add(stats.by_token[at]);
      add(stats.by_channel[i]);
      if (sides.head_width > 0) add(stats.by_head[static_cast<std::size_t>(c / sides.head_width)]);
    }
  }
  // What the inputs carry may gather in a few channels: they are judged alone only where rounding is what there is.
  if (total_inherited > total_rounding) {
    stats.by_channel.clear();
    stats.by_head.clear();
  }
  stats.left = stats.all.error;
  stats.one_ulp = stats.exact;
  if (stats.all.count == 0 || stats.floor_nmse() > kMostFloor * kMostFloor) return std::nullopt;
  return stats;
}

}  // namespace paritrace
