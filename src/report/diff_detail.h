// What `diff --all-stats` adds to a site's report.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "compare/detail_stats.h"
#include "compare/diff.h"

namespace paritrace {

// A channel with its share of the site's error.
struct ChannelShare {
  std::int64_t channel = 0;  // outer part times its width, and the place within it: head * head_dim + i for heads
  double share = 0;          // of sum((r-s)^2) over all channels
  double nmse = 0;           // of the channel; infinite where its reference is all zero
};

// At most `most` channels, the largest error first; {} where nothing differs.
[[nodiscard]] std::vector<ChannelShare> WorstChannels(const DetailStats& stats, std::size_t most);

// The least number of channels that hold half of the error; 0 where nothing differs.
[[nodiscard]] std::int64_t ChannelsWithHalfTheError(const DetailStats& stats);

// {"relative_error":{"p50","p90","p99","max"},"ulp":{…},"sign_flips","counted","skipped","channels":{…}}; quantiles are
// upper bounds within a factor of four (a histogram of exponents).
[[nodiscard]] nlohmann::ordered_json DetailToJson(const DetailStats& stats);

// A table of the detailed statistics of all compared sites, "" where there are none.
[[nodiscard]] std::string DetailTable(const DiffResult& diff, std::size_t width, bool colour);

}  // namespace paritrace
