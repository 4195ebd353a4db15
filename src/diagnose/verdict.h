// When is an error more than the subject's arithmetic explains? Every threshold of the diagnosis stands here, with its reason.
#pragma once

#include <cstdint>
#include <vector>

#include "diagnose/site_stats.h"

namespace paritrace {

// The size test. The floor is one sample of the subject's arithmetic plus the mean square of one rounding. Engines whose
// kernels round in other places than the emulation stay within a small multiple of it; four is twice the largest ratio
// seen on clean runs of engines that were not emulated step by step. A few values estimate a root mean square poorly,
// hence the allowance for small groups.
[[nodiscard]] double SizeLimit(std::int64_t count);

// The same for one token, head or channel among many: the largest of hundreds of groups lies higher than a single one.
[[nodiscard]] double GroupLimit(std::int64_t count);

// Groups smaller than this are not judged alone.
inline constexpr std::int64_t kSmallestGroup = 8;

// Tokens, heads and channels over their limit; all of them where the whole site is, none where it is clean.
struct Flags {
  bool flagged = false;
  std::vector<std::int64_t> tokens, heads, channels;
};
[[nodiscard]] Flags JudgeSize(const SiteStats& stats);

// True if the recorded values equal the prediction so well that no known mistake can hide below it.
[[nodiscard]] bool IsExplained(const SiteStats& stats, Rounding storage);

}  // namespace paritrace
