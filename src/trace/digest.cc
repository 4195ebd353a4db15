#include "trace/digest.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <span>

#include "core/parallel.h"
#include "trace/sketch.h"
#include "trace/tensor_stats.h"
#include "trace/value_kernels.h"
#include "trace/visit_values.h"

namespace paritrace {
namespace {

// Powers of ten that a double holds exactly.
constexpr int kMostExact = 22;
constexpr std::array<double, kMostExact + 1> kPowers = [] {
  std::array<double, kMostExact + 1> powers{};
  double power = 1;
  for (double& entry : powers) {
    entry = power;
    power *= 10;
  }
  return powers;
}();

// To kDigits decimal digits, so that the shortest text of the number is short.
double Rounded(double value) {
  if (!std::isfinite(value) || value == 0) return value;
  // The digits as a whole number, and that times or over a power of ten: one rounding, to the double nearest to the text.
  const int shift = TensorDigest::kDigits - 1 - static_cast<int>(std::floor(std::log10(std::fabs(value))));
  if (std::abs(shift) <= kMostExact) {
    const double power = kPowers[static_cast<std::size_t>(std::abs(shift))];
    return shift >= 0 ? std::nearbyint(value * power) / power : std::nearbyint(value / power) * power;
  }
  char text[40];
  const auto end =
      std::to_chars(text, text + sizeof text, value, std::chars_format::scientific, TensorDigest::kDigits - 1);
  double rounded = 0;
  std::from_chars(text, end.ptr, rounded);
  return rounded;
}

}  // namespace

// A stretch of whole rows, so that no block of the sketch is cut.
struct DigestOfParts::Part {
  explicit Part(const TensorView& tensor) : sketch(tensor.shape) {
    energy.resize(sketch.plan().values > 0 ? static_cast<std::size_t>(sketch.plan().positions) : 0);
  }
  Sketch sketch;
  std::vector<double> energy;  // [positions]

  // begin: of a row.
  void Add(const TensorView& tensor, double mask_bound, std::int64_t begin, std::int64_t end) {
    VisitValues(tensor, begin, end, [&](std::int64_t at, const auto* values, std::int64_t count) {
      const SketchPlan& plan = sketch.plan();
      std::int64_t row = at / plan.last, column = at % plan.last, position = row % plan.positions;
      while (count > 0) {
        const std::int64_t run = std::min(count, plan.last - column);
        energy[static_cast<std::size_t>(position)] += sketch.AddRun(row, position, column, values, run, mask_bound);
        values += run;
        count -= run;
        column = 0;
        ++row;
        if (++position == plan.positions) position = 0;
      }
    });
  }
};

DigestOfParts::DigestOfParts(const TensorView& tensor, std::string_view site, bool wanted)
    : tensor_(tensor),
      mask_bound_(site.ends_with(".attn.scores") ? MaskBound(tensor.dtype) : std::numeric_limits<double>::quiet_NaN()) {
  if (!wanted) return;
  const SketchPlan plan(tensor.shape);
  constexpr std::int64_t kLeastPart = 1 << 17, kMostParts = 16;  // a part has a whole sketch of its own
  const std::int64_t least = std::max(kLeastPart, (plan.values + kMostParts - 1) / kMostParts);
  const std::int64_t unit = plan.last * kBlockLanes * 32;  // whole rows, and whole blocks of the largest block type
  values_ = plan.values;
  grain_ = (least + unit - 1) / unit * unit;
  parts_.resize(static_cast<std::size_t>(std::max<std::int64_t>(1, (values_ + grain_ - 1) / grain_)), Part(tensor));
}

DigestOfParts::~DigestOfParts() = default;

std::int64_t DigestOfParts::parts() const { return static_cast<std::int64_t>(parts_.size()); }

void DigestOfParts::Run(std::int64_t part) {
  parts_[static_cast<std::size_t>(part)].Add(tensor_, mask_bound_, part * grain_,
                                             std::min(values_, (part + 1) * grain_));
}

TensorDigest DigestOfParts::Digest() {
  Sketch& sketch = parts_[0].sketch;
  std::vector<double>& energy = parts_[0].energy;
  for (std::size_t i = 1; i < parts_.size(); ++i) {
    sketch.Merge(parts_[i].sketch);
    for (std::size_t p = 0; p < energy.size(); ++p) energy[p] += parts_[i].energy[p];
  }
  TensorDigest digest;
  for (const double sum : energy) {
    digest.position_rms.push_back(Rounded(std::sqrt(sum / static_cast<double>(sketch.plan().features))));
  }
  digest.sketch = sketch.Encode();
  return digest;
}

TensorDigest DigestOf(const TensorView& tensor, std::string_view site) {
  DigestOfParts digest(tensor, site);
  ParallelFor(digest.parts(), 1, [&](std::int64_t part, std::int64_t) { digest.Run(part); });
  return digest.Digest();
}

void AddTo(nlohmann::ordered_json& index, TensorDigest digest) {
  nlohmann::ordered_json rms = nlohmann::ordered_json::array();
  for (const double value : digest.position_rms) {
    rms.push_back(std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr));
  }
  index["stats"]["position_rms"] = std::move(rms);
  if (!digest.sketch.empty()) index["sketch"] = std::move(digest.sketch);
}

}  // namespace paritrace
