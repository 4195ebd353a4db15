// Says whether rounding explains what two digests, or a digest and values, are estimated to differ by.
// An estimate is no measurement: diverged only where its whole interval lies above the bound.
#pragma once

#include <optional>
#include <string>

#include "compare/align.h"
#include "compare/digest_compare.h"

namespace paritrace {

struct DigestJudgement {
  LayoutCandidate reading;  // how the pair was read
  DigestComparison comparison;
  bool diverged = false;
  std::optional<std::int64_t>
      row;           // the first that is; nullopt: it is known of a group of rows, or of all together only
  std::string note;  // what the figures rest on
};

// bound: rms(difference) / rms(reference) that rounding explains in a row.
// row_order_may_differ: as of RowOrderMayDiffer. Values are then also read in the other order; two digests cannot be, and
// where they seem to differ, only the norms of their rows count, which no order changes.
// nullopt where nothing can be said (CompareDigests), so that the pair is not recorded on one side.
[[nodiscard]] std::optional<DigestJudgement> JudgeDigestPair(const EntryPair& pair, double bound,
                                                             bool row_order_may_differ);

}  // namespace paritrace
