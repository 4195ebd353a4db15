// Compares two traces site by site and says whether rounding explains what differs.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "compare/digest_compare.h"
#include "compare/noise.h"
#include "compare/pair_stats.h"
#include "compare/tokens.h"
#include "trace/trace.h"

namespace paritrace {

enum class SiteStatus {
  kIdentical,
  kWithinNoise,
  kDiverged,
  kMissingInSubject,
  kMissingInReference,
  kShapeMismatch,
  kTokenMismatch,
};
enum class Verdict { kIdentical, kWithinNoise, kDiverged, kIncomparable };

// The contract's words: "within_noise".
[[nodiscard]] std::string_view Name(SiteStatus status);
[[nodiscard]] std::string_view Name(Verdict verdict);
// The contract's exit code: 0, 0, 1, 3.
[[nodiscard]] int ExitCode(Verdict verdict);

struct SiteDiff {
  int step = 0;
  std::string site;  // canonical; the engine's own name where nothing maps it
  bool is_site = false;
  std::string reference_name, subject_name;  // what the engines call it; "" where missing
  Shape shape;                               // without leading axes of size 1; the reference's where it has one
  Shape subject_shape;                       // likewise
  DType reference_dtype = DType::kF32, subject_dtype = DType::kF32;
  SiteStatus status = SiteStatus::kIdentical;

  // Below: only where values were compared.
  bool compared = false;
  // Set where a side has no values: `stats` and `positions` are then estimated, and NaN where a digest cannot tell.
  std::optional<SiteEstimate> estimate;
  PairLayout layout;                            // how the values of the two entries pair up
  const TraceEntry* reference_entry = nullptr;  // into the traces given to Diff; nullptr where missing
  const TraceEntry* subject_entry = nullptr;
  PairStats stats;
  std::vector<std::int64_t> max_abs_at;         // index in `shape` of the largest difference; {} where nothing differs
  std::vector<std::int64_t> first_mismatch_at;  // likewise of the first NaN, infinity or mask on one side only
  std::vector<PositionStats> positions;
  std::optional<DetailStats> detail;              // with DiffOptions::all_stats
  std::int64_t first_position = 0;                // absolute position of positions[0]
  std::optional<std::int64_t> diverged_position;  // the first, absolute
  double allowed = 0;                             // rms(difference) / rms(reference) that rounding explains here
  nlohmann::ordered_json relation;                // null, or what alignment had to assume
  std::string note;
  // Where a side has neither values nor a digest, only a dump's evidence (evidence_judge.h): what there was; else null.
  nlohmann::ordered_json evidence;
  bool undecided = false;  // both sides know something of the tensor that neither contradicts nor shows parity
};

struct FirstDivergence {
  std::size_t index = 0;  // into DiffResult::sites
  int step = 0;
  std::string site;
  std::optional<std::int64_t> position;  // nullopt: shapes differ
};

// How many sites have each status; their sum is sites.size().
struct StatusCounts {
  std::int64_t identical = 0, within_noise = 0, diverged = 0, missing_in_subject = 0, missing_in_reference = 0,
               shape_mismatch = 0, token_mismatch = 0;
  [[nodiscard]] std::int64_t Compared() const { return identical + within_noise + diverged; }
  [[nodiscard]] std::int64_t Total() const {
    return Compared() + missing_in_subject + missing_in_reference + shape_mismatch + token_mismatch;
  }
};

struct DiffResult {
  Verdict verdict = Verdict::kIncomparable;
  std::string reference_path, subject_path;
  TraceHeader reference, subject;
  std::optional<TokenMismatch> tokens;
  std::optional<FirstDivergence> first_divergence;
  std::vector<SiteDiff> sites;  // in order of execution
  EngineRounding reference_rounding, subject_rounding;
  std::string reason;  // one sentence, where the verdict is incomparable

  [[nodiscard]] StatusCounts Counts() const;
};

struct DiffOptions {
  // Compares this site only, and leaves the others out of the result; "": all.
  std::string only_site;
  bool all_stats = false;  // SiteDiff::detail as well
  // Called from time to time, from any thread, with values compared so far and in all.
  std::function<void(std::int64_t done, std::int64_t total)> progress;
};

// Never throws for traces that do not fit: that is a verdict. Errors: UsageError for a dtype without a decoder.
[[nodiscard]] DiffResult Diff(const Trace& reference, const Trace& subject, const DiffOptions& options = {});

}  // namespace paritrace
