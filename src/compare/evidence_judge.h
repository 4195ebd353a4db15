// Judges a pair of which a side has no values, only what a dump tells of them: printed values, statistics, a hash.
//
// What is known can contradict parity for certain, and agree with it only as far as it goes. Printed values are compared
// where they were printed, within their print's rounding; a statistic bounds the difference from below (two tensors whose
// norms differ by x are at least x apart) and never from above: equal norms, means and extremes are no evidence that values
// are equal, since any permutation of them keeps all.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "compare/align.h"
#include "compare/judge.h"

namespace paritrace {

enum class EvidenceVerdict {
  kAgrees,     // printed values that tell something, all within rounding and print
  kDiverged,   // something contradicts
  kUndecided,  // nothing contradicts, and nothing shows parity
};

struct EvidenceJudgement {
  EvidenceVerdict verdict = EvidenceVerdict::kUndecided;
  nlohmann::ordered_json relation;        // of the reading that was taken; null: none was needed
  std::optional<std::int64_t> row;        // of the first printed value that contradicts
  std::int64_t printed = 0, telling = 0;  // values compared; those that their print resolves to a digit at least
  nlohmann::ordered_json json;            // {"printed","telling","of","max_abs_low","statistics":[…]}
  std::string note;
};

// True where there is something to judge: a dump's evidence on a side without values, or statistics of our own.
[[nodiscard]] bool HasEvidence(const TraceEntry& reference, const TraceEntry& subject);

// bounds: what rounding explains, as for values.  row_order_may_differ: as of RowOrderMayDiffer.
// Errors: as of DecodeF64.
[[nodiscard]] EvidenceJudgement JudgeEvidence(const EntryPair& pair, const ErrorBounds& bounds,
                                              bool row_order_may_differ);

}  // namespace paritrace
