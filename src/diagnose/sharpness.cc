#include "diagnose/sharpness.h"

#include <algorithm>
#include <cmath>

namespace paritrace {
namespace {

// By chance a value falls on the other prediction in fewer than one case of four (f32) or two (coarse storage): a dozen of
// them do so in fewer than one run of 4000 for each mistake tried, and real ones move hundreds.
constexpr std::int64_t kFewest = 16;
constexpr double kHits = 0.97;
constexpr double kApart = 4, kNoise = 4;

}  // namespace

bool IsSharp(const Replay& replay, const Node& node, const Value& right, const Value& wrong, const SiteStats& stats) {
  const RecordedSite& recorded = replay.recording().At(node.id);
  if (wrong.shape != recorded.value.shape || right.shape != recorded.value.shape) return false;
  const Rounding storage = StorageOf(node, replay.arithmetic());
  const bool coarse = storage == Rounding::kBF16 || storage == Rounding::kF16;
  const auto count = static_cast<double>(std::max<std::int64_t>(stats.all.count, 1));
  const double floor = coarse ? 0.0 : kNoise * std::sqrt(stats.all.floor() / count);
  std::int64_t telling = 0, hits = 0, silent = 0, missed = 0;
  bool broken = false;
  ForEachKnown(node, recorded, [&](std::size_t i) {
    const double x = recorded.value.data[i], p = right.data[i], h = wrong.data[i];
    if (!std::isfinite(x) || !std::isfinite(p) || !std::isfinite(h)) {
      broken = broken || (x != h && !(std::isnan(x) && std::isnan(h)));
      return;
    }
    const double tolerance = coarse ? 0.0 : floor + 2 * kNoise * HalfUlp(storage, h);
    const bool hit = std::fabs(x - h) <= tolerance;
    if (std::fabs(h - p) > kApart * tolerance) {
      ++telling;
      hits += hit ? 1 : 0;
    } else {
      ++silent;
      missed += hit ? 0 : 1;
    }
  });
  return !broken && telling >= kFewest && static_cast<double>(hits) >= kHits * static_cast<double>(telling) &&
         static_cast<double>(missed) <= (1 - kHits) * static_cast<double>(silent);
}

}  // namespace paritrace
