// What a page shows of one site beyond its figures: errors by token and by head, a sample of the values of both sides and
// their histogram. Bounded, whatever the size of the tensor: verdicts are never made from it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "diagnose/site_stats.h"

namespace paritrace {

// Most entries that a view may keep of each kind.
struct ViewLimits {
  std::int64_t samples = 256, tokens = 256, cells = 2048;
  bool histogram = true;
};

// Limits that keep the views of `sites` sites within about 3 MB of text together; beyond 2000 sites a little is left of each.
[[nodiscard]] ViewLimits LimitsFor(std::size_t sites);

struct SiteView {
  std::string site;
  std::int64_t values = 0;
  // Root mean squares of the introduced error and of the noise floor, [tokens / token_bin]; the worst of the tokens that share
  // an entry; NaN where nothing was judged, infinity where something is masked or not finite on one side only.
  std::int64_t token_bin = 1;
  std::vector<float> token_error, token_floor;
  // Error over noise floor of each head at each token, [heads, tokens / head_bin]; likewise; empty where features are no heads.
  std::int64_t heads = 0, head_bin = 1;
  std::vector<float> head_ratio;
  // Samples: the `worst` largest errors first, then evenly spaced ones. Rows are tokens, or [heads, tokens] of scores.
  std::vector<std::uint32_t> rows, columns;
  std::vector<float> expected, recorded;
  std::int64_t worst = 0;
  // Counts of all finite values in equal bins from low to high.
  double low = 0, high = 0;
  std::vector<std::int64_t> expected_counts, recorded_counts;
  std::int64_t outside = 0;  // values of either side that are not finite
};

// expected: the f64 replay from the recorded inputs. stats: of all tokens of this site; cells: the same by head and token
// (MeasureSite's by_cell).
[[nodiscard]] SiteView MakeSiteView(const Node& node, const RecordedSite& recorded, const Value& expected,
                                    const SiteStats& stats, const std::vector<ErrorSums>& cells,
                                    const ViewLimits& limits);

}  // namespace paritrace
