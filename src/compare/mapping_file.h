// MAP.toml: which tensors of two traces are one and the same, where no rule says so. Written by `paritrace align`, read by
// `paritrace diff --map`, and meant to be read and corrected by people in between.
//
//   format = "paritrace-map/1"
//   pair = [
//     { reference = "model.layers.0.self_attn.q_proj", subject = "t0004", site = "layers.0.attn.q", confidence = 0.9999 },
//   ]
//
// Names are the engines' own. `occurrence = [2, 1]`: the second tensor of that name in a step of the reference, the first
// in one of the subject; [1, 1] where it is absent. `site`, where known, is what a comparison shows, and tells it about
// masks and layouts. `confidence` is 1 where it is absent: a pair that a person wrote.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "compare/match_traces.h"
#include "trace/trace.h"

namespace paritrace {

struct MappedPair {
  std::string reference, subject;  // names
  std::int64_t reference_occurrence = 1, subject_occurrence = 1;
  std::string site;  // "" unknown
  double confidence = 1;
};

// Errors: UsageError if the file cannot be read; FormatError naming the line for anything else than the above: unknown
// keys, a confidence outside 0..1, a tensor in two pairs.
[[nodiscard]] std::vector<MappedPair> ReadMapping(const std::string& path);
[[nodiscard]] std::vector<MappedPair> ParseMapping(std::string_view text, const std::string& path);

// The file for a match. Pairs of less than `least_confidence` stand in comments, so that nobody uses them unseen; what has
// no partner is listed in comments, too. Pairs that rules made are left out: diff finds them by itself.
[[nodiscard]] std::string FormatMapping(const MatchResult& match, const Trace& reference, const Trace& subject,
                                        double least_confidence);

struct MappingUse {
  std::int64_t used = 0;    // pairs of the file found in both traces
  std::int64_t unsure = 0;  // left out for their confidence
  std::int64_t absent = 0;  // a name that its trace does not have
  double lowest = 1;        // confidence of the least sure pair that is used
};
// Makes alignment pair what the map pairs, and nothing else with it: both entries get the same `pair_as`, and the same
// site where the map or one side knows one.
MappingUse ApplyMapping(const std::vector<MappedPair>& pairs, double least_confidence, Trace& reference,
                        Trace& subject);

}  // namespace paritrace
