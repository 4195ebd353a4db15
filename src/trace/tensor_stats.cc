#include "trace/tensor_stats.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/parallel.h"
#include "trace/value_kernels.h"
#include "trace/visit_values.h"

namespace paritrace {
namespace {

nlohmann::ordered_json NumberOrNull(double value) {
  if (!std::isfinite(value)) return nullptr;  // JSON has no other way to say it
  return value;
}

constexpr std::int64_t kPart = 1 << 17;  // values; a multiple of every block

}  // namespace

StatsOfParts::StatsOfParts(const TensorView& tensor, std::string_view site)
    : tensor_(tensor),
      scores_(site.ends_with(".attn.scores")),
      moments_(static_cast<std::size_t>((tensor.size() + kPart - 1) / kPart)) {}

void StatsOfParts::Run(std::int64_t part) {
  Moments& moments = moments_[static_cast<std::size_t>(part)];
  const std::int64_t begin = part * kPart, end = std::min(tensor_.size(), begin + kPart);
  const double mask_bound = scores_ ? MaskBound(tensor_.dtype) : std::numeric_limits<double>::quiet_NaN();
  VisitValues(tensor_, begin, end, [&](std::int64_t, const auto* values, std::int64_t count) {
    AddMoments(values, count, mask_bound, moments);
  });
}

nlohmann::ordered_json StatsOfParts::Json() const {
  Moments all;
  for (const Moments& part : moments_) all.Merge(part);
  // 0: every quotient is NaN, and null.
  const auto finite = static_cast<double>(tensor_.size() - all.nan - all.inf - all.masked);
  // Zeros of both signs are equal, and which of them is met first depends on the lanes: adding 0 makes them one.
  nlohmann::ordered_json stats = {{"min", NumberOrNull(all.min + 0.0)},
                                  {"max", NumberOrNull(all.max + 0.0)},
                                  {"mean", NumberOrNull(all.Sum() / finite)},
                                  {"rms", NumberOrNull(std::sqrt(all.Squares() / finite))},
                                  {"nan", all.nan},
                                  {"inf", all.inf}};
  if (scores_) stats["masked"] = all.masked;
  return stats;
}

nlohmann::ordered_json TensorStats(const TensorView& tensor, std::string_view site) {
  StatsOfParts stats(tensor, site);
  ParallelFor(stats.parts(), 1, [&](std::int64_t part, std::int64_t) { stats.Run(part); });
  return stats.Json();
}

}  // namespace paritrace
