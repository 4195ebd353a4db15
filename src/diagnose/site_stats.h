// What one recorded site says about the subject: introduced error against the noise floor, in all and by token, head and
// channel, and how much of it the emulated arithmetic explains.
#pragma once

#include <cstdint>
#include <vector>

#include "diagnose/recording.h"
#include "diagnose/replay.h"

namespace paritrace {

// Sums over a group of values; groups add up.
struct ErrorSums {
  double error = 0;     // sum of (recorded - f64)^2
  double sampled = 0;   // sum of (sampled - f64)^2: the arithmetic's own error, as one order of summation makes it
  double rounding = 0;  // expected sum for one rounding of each result: a sample may be exact by luck
  std::int64_t count = 0;
  std::int64_t broken = 0;  // masked on one side only, or not finite where the replay is
  [[nodiscard]] double floor() const { return sampled > rounding ? sampled : rounding; }
  // Root of error over floor; 0 for no error, infinity where something is broken.
  [[nodiscard]] double ratio() const;
};

struct SiteStats {
  ErrorSums all;
  double left = 0;        // sum of (recorded - predicted)^2
  double order = 0;       // expected square of what no prediction can know: the order of summation
  double signal = 0;      // sum of f64^2
  double propagated = 0;  // sum of (forced f64 - free f64)^2
  double free_signal = 0;
  std::int64_t exact = 0, one_ulp = 0;
  std::int64_t unjudged = 0;                             // the replay itself is not finite: the inputs were not
  std::vector<ErrorSums> by_token, by_head, by_channel;  // by_head empty where there are none

  [[nodiscard]] double introduced_nmse() const;
  [[nodiscard]] double floor_nmse() const;
  [[nodiscard]] double left_nmse() const;
  [[nodiscard]] double propagated_nmse() const;
  [[nodiscard]] double exact_share() const;
  [[nodiscard]] double one_ulp_share() const;
};

// The three replayed values of a site.
struct Replayed {
  const Value& exact;
  const Value& predicted;
  const Value& sampled;
};

struct TokenRange {
  std::int64_t begin = 0, end = 0;
};

// free: the unforced f64 value, or nullptr. Only recorded tokens in `range` count.
// by_cell: if not null, takes the sums of each head at each token, [heads, tokens]; empty where there are no heads.
[[nodiscard]] SiteStats MeasureSite(const Graph& graph, const Node& node, const RecordedSite& recorded,
                                    const Replayed& replayed, const Value* free, const Arithmetic& arithmetic,
                                    TokenRange range, std::vector<ErrorSums>* by_cell = nullptr);

// Lanes of one head at this node, or 0 where the features are not heads.
[[nodiscard]] std::int64_t HeadWidth(const Graph& graph, const Node& node);

}  // namespace paritrace
