// Finds which tensors of two traces mean the same point of the computation where no rule maps their names.
// It is a guess, however good, and is kept apart from diff for that reason: what comes out goes into a file that people can
// read and correct (mapping_file.h), never straight into a comparison.
//
// Content decides: a tensor's values, held against every tensor of a fitting size in the other trace. Order of execution
// and names break ties, and carry on where the values have diverged. Both are worth what they were worth on the pairs that
// the values alone made certain: shuffled traces and names like `t0001` learn to say nothing.
//
// Each candidate pair gets a score, the sum of log odds: -log(distance of values), order, names; not pairing at all has
// a score too, from how far values may differ there (next to nothing between pairs that agree). The confidence is the share
// of the pair among all ways to pair either of its tensors, unpaired included: exp(score) / sum exp(scores).
// Copies of one tensor in one trace (`layers.0.out` is `layers.1.in`) are no rivals of each other: they pair in order.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "compare/match_view.h"
#include "trace/trace.h"

namespace paritrace {

struct TraceMatch {
  const TraceEntry* reference = nullptr;
  const TraceEntry* subject = nullptr;
  double confidence = 0;           // 0..1
  bool by_site = false;            // rules gave both the same site: no guess
  std::optional<double> distance;  // of the sampled values (ContentDistance); nullopt: nothing to compare
  std::optional<double> rival;     // the least distance of any other candidate of either
  RowOrder row_order;              // head_dim 0: none needed
  std::string evidence;            // one line for people
};

struct MatchResult {
  // In order of execution of the reference; a name that comes again in later steps stands here once, with its first step.
  std::vector<TraceMatch> pairs;
  std::vector<const TraceEntry*> reference_only, subject_only;  // in no pair, in the order of their traces
};

// Pairs by name of the first step in which both run at common positions; later steps add what is new in them. Steps behind
// the first token that differs are left out.
// Every name of a trace (with its occurrence within a step) stands in exactly one of the three lists.
[[nodiscard]] MatchResult MatchTraces(const Trace& reference, const Trace& subject);

// What is usually called sure enough to be used: three to one.
constexpr double kUsableConfidence = 0.75;

}  // namespace paritrace
