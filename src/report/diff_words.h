// The sentences and figures that every report of a diff shares, so that terminal, Markdown and HTML cannot disagree.
#pragma once

#include <string>
#include <vector>

#include "compare/diff.h"

namespace paritrace {

// The answer in one or two sentences: "Diverged from layers.2.attn.q_rope on, at position 3: …".
[[nodiscard]] std::string VerdictSentence(const DiffResult& diff);

// "within noise": a status for people.
[[nodiscard]] std::string_view Words(SiteStatus status);

// "hf 4.57.1, torch-bf16, traces/hf"; what is not known is left out.
[[nodiscard]] std::string DescribeSide(const TraceHeader& header, const EngineRounding& rounding,
                                       const std::string& path);

// "86 sites compared: 12 identical, 74 within noise; 6 missing in the subject"
[[nodiscard]] std::string DescribeCounts(const StatusCounts& counts);

// What was assumed or left out at a site: "rows taken from interleaved to half-split order, heads of 8"; "" if nothing.
[[nodiscard]] std::string DescribeNote(const SiteDiff& site);

// "3.1e-05", "0", "-" where there is no number, "nan" and "inf".
[[nodiscard]] std::string ShortNumber(double value);

// A row of a table: one site, or a fold that stands for several. Indices into DiffResult::sites.
struct TableEntry {
  std::vector<std::size_t> sites;
  bool is_fold = false;
};
// `all`: every site a row. Else long runs of one status are folded, and sites that a side lacks left out: they stand in
// DescribeMissing.
[[nodiscard]] std::vector<TableEntry> FoldRuns(const DiffResult& diff, bool all);

// "41 more within noise, nmse at most 3e-13"
[[nodiscard]] std::string DescribeFold(const DiffResult& diff, const TableEntry& fold);

// "only in the reference: attn.scores of layers 0-4; and 5 tensors that no rule maps to a site", for each side.
[[nodiscard]] std::vector<std::string> DescribeMissing(const DiffResult& diff);

}  // namespace paritrace
