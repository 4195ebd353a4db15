// Pairs the entries of two traces, and says where the values of a pair lie in each.
// Kept apart from comparing: pairing is a reading of names and shapes and may be wrong, comparing is not. What pairing
// had to assume beyond "same name, same shape" is a relation, and a report must show it.
// Invariant: each entry with data or shape is in at least one pair, or in exactly one unpaired row.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "compare/pair_stats.h"
#include "trace/trace.h"

namespace paritrace {

enum class PairStatus { kPaired, kMissingInSubject, kMissingInReference, kShapeMismatch, kNotRecorded };

// One way to read a pair's values.
struct LayoutCandidate {
  PairLayout layout;
  nlohmann::ordered_json relation;  // null: nothing had to be assumed; else {"kind": …} as in the contract
};

struct EntryPair {
  PairStatus status = PairStatus::kPaired;
  int step = 0;      // the subject's, or the reference's where there is no subject
  std::string site;  // canonical; the engine's own name where nothing maps it
  bool is_site = false;
  const TraceEntry* reference = nullptr;
  const TraceEntry* subject = nullptr;
  Shape shape;          // the reference's (else the subject's), without leading axes of size 1
  Shape subject_shape;  // likewise
  // Readings in order of preference; more than one only where the shapes alone cannot decide. Empty unless kPaired.
  std::vector<LayoutCandidate> candidates;
  std::int64_t first_position = 0;  // absolute position of row 0
  std::string note;                 // why it is no pair, or what was left out ("the last 1 of 10 tokens")
};

// All pairs, in order of execution: steps first, then the reference's order where it knows one, else the subject's, else
// the rank of the site. Entries pair by (position, site), else by (position, name); steps need not be cut alike where both
// headers know them: a decode step pairs with the rows of a longer prefill. Without `by_position` (the tokens differ, so
// that a position means nothing) steps pair with steps of the same number.
[[nodiscard]] std::vector<EntryPair> AlignTraces(const Trace& reference, const Trace& subject, bool by_position = true);

// The readings of two shapes; empty, with `reason`, where they do not fit.
struct ShapePair {
  std::string_view site;
  Shape reference, subject;                                     // as recorded
  std::optional<std::int64_t> reference_tokens = std::nullopt;  // rows that the step has, where known
  std::optional<std::int64_t> subject_tokens = std::nullopt;
  std::int64_t reference_skip = 0, subject_skip = 0;  // rows before the first common one
  std::optional<std::int64_t> rows = std::nullopt;    // common rows; nullopt: all
  std::optional<std::int64_t> keys = std::nullopt;    // columns of scores and probs that count, where known
};
[[nodiscard]] std::vector<LayoutCandidate> ReadShapes(const ShapePair& shapes, std::string& reason);

// True at the four sites where a GGUF of the `llama` architecture keeps other row order than Hugging Face, if these two
// headers may be one of each kind.
[[nodiscard]] bool RowOrderMayDiffer(std::string_view site, const TraceHeader& reference, const TraceHeader& subject);

// `layout` with one side's rows taken from interleaved to half-split order in heads of head_dim values.
// nullopt if the layout's rows are no whole number of such heads, or are permuted already.
[[nodiscard]] std::optional<LayoutCandidate> WithRowOrder(const LayoutCandidate& candidate, std::int64_t head_dim,
                                                          bool subject_is_interleaved);

}  // namespace paritrace
