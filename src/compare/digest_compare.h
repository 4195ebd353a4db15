// Compares a pair of tensors of which at least one has no values, only what a digest keeps.
// The difference is estimated from two sketches; a side that has its values is sketched on the fly, in the order of the
// digest's. Where sketches cannot meet (two digests of other layouts) only the norms of the rows bound the difference.
#pragma once

#include <optional>
#include <vector>

#include "compare/pair_stats.h"
#include "trace/sketch.h"
#include "trace/trace.h"

namespace paritrace {

// Estimates with the intervals that hold the truth in at least 95 of 100 cases.
struct SiteEstimate {
  Estimate nmse;    // sum((r-s)^2) / sum(r^2); infinite where only the reference is all zero
  Estimate cosine;  // from nmse and the norms, which a digest holds exactly
  double max_abs_low = 0, max_abs_high = 0;
  std::vector<Estimate> position_nmse;  // [rows], all intervals hold at once as often; {} where positions share a group
  // No sketch could be used. The interval is then certain, and as wide as the norms leave it; nmse.value is its lower
  // end, the least that the difference can be.
  bool by_norms = false;
};

// A group of neighbouring rows, as far apart as its sketch tells.
struct RowGroup {
  std::int64_t first_row = 0, rows = 0;
  double reference_energy = 0;  // sum of squares
  Estimate difference;          // sum of squares
};

struct DigestComparison {
  SiteEstimate estimate;
  // Sums over the compared rows as estimated, so that cosine and NMSE follow as for values; NaN where a digest cannot
  // tell (sum of |r-s|, maxima). `mismatches` counts how many more NaN or infinities one side has.
  PairStats stats;
  std::vector<PositionStats> positions;  // [rows]; {} where positions share a group
  Estimate difference;                   // sum of squares, all rows
  std::vector<RowGroup> groups;          // ascending
};

enum class DigestMethod {
  kSketch,
  kNorms,  // for what may stand in another order within its row
};

// Compares as `layout` pairs the values up. nullopt where nothing can be said: no sketch and no norms of rows, rows that
// are no positions of the digest, or no whole group of rows in common.
// Errors: as of DecodeF64.
[[nodiscard]] std::optional<DigestComparison> CompareDigests(const TraceEntry& reference, const TraceEntry& subject,
                                                             const PairLayout& layout,
                                                             DigestMethod method = DigestMethod::kSketch);

// True where the hashes are those of the same bytes of one type, or (BLAKE3) of the same values as f32. A side that has its
// values is hashed anew.
[[nodiscard]] bool SameByHash(const TraceEntry& reference, const TraceEntry& subject);

}  // namespace paritrace
