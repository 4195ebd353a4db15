// What the page of a diff shows of one site's values: a sample of both sides, the histogram of all, errors by head and token.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include "compare/diff.h"

namespace paritrace {

// Query heads by (step, layer), where scores or probabilities were recorded and tell: [heads, queries, keys].
using HeadCounts = std::map<std::pair<int, std::string>, std::int64_t>;
[[nodiscard]] HeadCounts HeadsOf(const DiffResult& diff);

// How much a site may take, so that a page of ten thousand sites still opens at once.
struct DiffViewLimits {
  std::int64_t samples = 0;  // pairs of values
  std::int64_t cells = 0;    // of heads x tokens; fewer than there are heads: none
  bool histogram = false;
};
[[nodiscard]] DiffViewLimits DiffViewLimitsFor(std::size_t sites);

// {"values", "samples", "heads", "histogram"} as report/src/data.ts has them; the last two are left out where the limits or
// the site say so, and of tensors beyond 2^22 values, which are not read a second time. null where the sides' values are not
// both there.
// heads.ratio: rms of the difference over the rms that rounding explains at the site, of each head at each token; the worst of
// tokens that share an entry; NaN where nothing can be told, infinity where one side alone is masked or not finite.
[[nodiscard]] nlohmann::ordered_json DiffViewOf(const SiteDiff& site, const HeadCounts& heads,
                                                const DiffViewLimits& limits);

}  // namespace paritrace
