#include "diagnose/verdict.h"

#include <algorithm>
#include <cmath>

namespace paritrace {
namespace {

constexpr double kSizeRatio = 4, kGroupRatio = 8;

// A group whose values are all next to nothing has a floor next to nothing: an error there counts only from an eighth of
// what is noise at the site as a whole.
constexpr double kGroupFloorShare = 1.0 / 8;

std::vector<std::int64_t> Over(const std::vector<ErrorSums>& groups, const ErrorSums& all) {
  std::vector<std::int64_t> over;
  const double site_floor =
      all.count == 0 ? 0 : all.floor() / static_cast<double>(all.count) * kGroupFloorShare * kGroupFloorShare;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const ErrorSums& group = groups[i];
    const double limit = GroupLimit(group.count),
                 floor = std::max(group.floor(), site_floor * static_cast<double>(group.count));
    if (group.broken > 0 || (group.count >= kSmallestGroup && !(group.error <= limit * limit * floor))) {
      over.push_back(static_cast<std::int64_t>(i));
    }
  }
  return over;
}

}  // namespace

double SizeLimit(std::int64_t count) {
  return kSizeRatio * (1 + 3 / std::sqrt(static_cast<double>(count > 0 ? count : 1)));
}
double GroupLimit(std::int64_t count) {
  return kGroupRatio * (1 + 3 / std::sqrt(static_cast<double>(count > 0 ? count : 1)));
}

Flags JudgeSize(const SiteStats& stats) {
  Flags flags{.tokens = Over(stats.by_token, stats.all),
              .heads = Over(stats.by_head, stats.all),
              .channels = Over(stats.by_channel, stats.all)};
  flags.flagged = stats.all.broken > 0 || !(stats.all.ratio() <= SizeLimit(stats.all.count)) || !flags.tokens.empty() ||
                  !flags.heads.empty() || !flags.channels.empty();
  return flags;
}

bool IsExplained(const SiteStats& stats, Rounding storage) {
  if (stats.exact == stats.all.count) return true;
  // Where results are stored coarsely, sums in another order flip a rounding in fewer than one value in a thousand.
  if (storage == Rounding::kBF16 || storage == Rounding::kF16)
    return stats.exact_share() >= 0.9995 && stats.one_ulp == stats.all.count;
  return stats.left <= stats.order;
}

}  // namespace paritrace
