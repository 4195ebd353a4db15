#include "trace/digest.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include "core/decode.h"
#include "core/parallel.h"
#include "trace/sketch.h"
#include "trace/tensor_stats.h"
#include "trace/value_kernels.h"

namespace paritrace {
namespace {

// So that the shortest text of the number is short.
double Rounded(double value) {
  if (!std::isfinite(value)) return value;
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

  void Add(const TensorView& tensor, double mask_bound, std::int64_t begin, std::int64_t end) {
    constexpr std::int64_t kPiece = 4096;  // a multiple of every block
    std::array<double, kPiece> values;
    const SketchPlan& plan = sketch.plan();
    for (; begin < end; begin += kPiece) {
      const std::int64_t count = std::min(kPiece, end - begin);
      DecodeF64(tensor, begin, count, values.data());
      for (std::int64_t done = 0; done < count;) {
        const std::int64_t run = std::min(count - done, plan.last - (begin + done) % plan.last);
        energy[static_cast<std::size_t>(plan.PositionOf(begin + done))] +=
            KeepFinite(values.data() + done, run, mask_bound);
        done += run;
      }
      sketch.AddFinite(begin, std::span(values).first(static_cast<std::size_t>(count)));
    }
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
