#include "trace/digest.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <span>

#include <fmt/format.h>

#include "core/decode.h"
#include "trace/sketch.h"
#include "trace/tensor_stats.h"

namespace paritrace {
namespace {

// So that the shortest text of the number is short.
double Rounded(double value) {
  return std::strtod(fmt::format("{:.{}e}", value, TensorDigest::kDigits - 1).c_str(), nullptr);
}

}  // namespace

TensorDigest DigestOf(const TensorView& tensor, std::string_view site) {
  constexpr std::int64_t kPiece = 4096;  // a multiple of every block
  std::array<double, kPiece> values;
  const bool scores = site.ends_with(".attn.scores");
  const double masked = MaskBound(tensor.dtype);
  Sketch sketch(tensor.shape);
  const SketchPlan& plan = sketch.plan();
  std::vector<double> energy(plan.values > 0 ? static_cast<std::size_t>(plan.positions) : 0);
  for (std::int64_t begin = 0; begin < plan.values; begin += kPiece) {
    const std::int64_t count = std::min(kPiece, plan.values - begin);
    DecodeF64(tensor, begin, count, values.data());
    if (scores)
      std::replace_if(
          values.begin(), values.begin() + count, [&](double v) { return v <= masked; }, 0.0);
    sketch.Add(begin, std::span(values).first(static_cast<std::size_t>(count)));
    for (std::int64_t done = 0; done < count;) {
      const std::int64_t run = std::min(count - done, plan.last - (begin + done) % plan.last);
      double& sum = energy[static_cast<std::size_t>(plan.PositionOf(begin + done))];
      for (const std::int64_t end = done + run; done < end; ++done) {
        const double value = values[static_cast<std::size_t>(done)];
        if (std::isfinite(value)) sum += value * value;
      }
    }
  }
  TensorDigest digest;
  for (const double sum : energy) {
    digest.position_rms.push_back(Rounded(std::sqrt(sum / static_cast<double>(plan.features))));
  }
  digest.sketch = sketch.Encode();
  return digest;
}

void AddDigest(const TensorView& tensor, std::string_view site, nlohmann::ordered_json& index) {
  TensorDigest digest = DigestOf(tensor, site);
  nlohmann::ordered_json rms = nlohmann::ordered_json::array();
  for (const double value : digest.position_rms) {
    rms.push_back(std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr));
  }
  index["stats"]["position_rms"] = std::move(rms);
  if (!digest.sketch.empty()) index["sketch"] = std::move(digest.sketch);
}

}  // namespace paritrace
