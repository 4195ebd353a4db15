#include "diagnose/verdict.h"

#include <cmath>

namespace paritrace {
namespace {

constexpr double kSizeRatio = 4, kGroupRatio = 8;

std::vector<std::int64_t> Over(const std::vector<ErrorSums>& groups) {
  std::vector<std::int64_t> over;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const ErrorSums& group = groups[i];
    if (group.broken > 0 || (group.count >= kSmallestGroup && !(group.ratio() <= GroupLimit(group.count)))) {
      over.push_back(static_cast<std::int64_t>(i));
    }
  }
  return over;
}

}  // namespace

double SizeLimit(std::int64_t count) { return kSizeRatio * (1 + 3 / std::sqrt(static_cast<double>(count > 0 ? count : 1))); }
double GroupLimit(std::int64_t count) { return kGroupRatio * (1 + 3 / std::sqrt(static_cast<double>(count > 0 ? count : 1))); }

Flags JudgeSize(const SiteStats& stats) {
  Flags flags{.tokens = Over(stats.by_token), .heads = Over(stats.by_head), .channels = Over(stats.by_channel)};
  flags.flagged = stats.all.broken > 0 || !(stats.all.ratio() <= SizeLimit(stats.all.count)) || !flags.tokens.empty() ||
                  !flags.heads.empty() || !flags.channels.empty();
  return flags;
}

bool IsExplained(const SiteStats& stats, Rounding storage) {
  if (stats.exact == stats.all.count) return true;
  // Where results are stored coarsely, sums in another order flip a rounding in fewer than one value in a thousand.
  if (storage == Rounding::kBF16 || storage == Rounding::kF16) return stats.exact_share() >= 0.9995 && stats.one_ulp == stats.all.count;
  return stats.left <= stats.order;
}

}  // namespace paritrace
