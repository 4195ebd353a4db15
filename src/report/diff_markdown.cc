#include "report/diff_markdown.h"

#include <fmt/format.h>

#include "report/diff_words.h"
#include "report/terminal.h"

namespace paritrace {
namespace {

// Names come from other people's files: nothing in them may end a cell or start markup.
std::string Escaped(std::string_view text) {
  std::string out;
  for (const char c : Printable(text)) {
    if (std::string_view("|\\`*_<>[]#").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

void AddRow(const DiffResult& diff, std::size_t index, std::string& out) {
  const SiteDiff& site = diff.sites[index];
  const bool is_first = diff.first_divergence && diff.first_divergence->index == index;
  const std::string strong = is_first ? "**" : "";
  const PairStats& stats = site.stats;
  std::string nmse = "-", max_abs = "-", cosine = "-", allowed = "-";
  if (site.compared) {
    const bool measured = stats.mismatches == 0;
    nmse = measured ? ShortNumber(stats.Nmse()) : "nonfinite";
    max_abs = !measured ? "nonfinite" : site.estimate ? "-" : ShortNumber(stats.max_abs);
    cosine = measured ? fmt::format("{:.6f}", stats.Cosine()) : "nonfinite";
    allowed = ShortNumber(site.allowed * site.allowed);
  }
  out +=
      fmt::format("| {} | {}{}{} | {} | {} | {} | {} | {}{}{} | {} |\n", site.step, strong, Escaped(site.site), strong,
                  nmse, allowed, max_abs, cosine, strong, Words(site.status), strong, Escaped(DescribeNote(site)));
}

}  // namespace

std::string DiffToMarkdown(const DiffResult& diff) {
  std::string out = fmt::format("**{}**\n\n", Escaped(VerdictSentence(diff)));
  out += fmt::format("- reference: {}\n- subject: {}\n- {}\n",
                     Escaped(DescribeSide(diff.reference, diff.reference_rounding, diff.reference_path)),
                     Escaped(DescribeSide(diff.subject, diff.subject_rounding, diff.subject_path)),
                     DescribeCounts(diff.Counts()));
  if (diff.sites.empty()) return out;
  out +=
      "\n| step | site | nmse | allowed | max abs | cosine | status | note |\n|---:|---|---:|---:|---:|---:|---|---|\n";
  for (const TableEntry& entry : FoldRuns(diff, false)) {
    if (entry.is_fold) {
      out += fmt::format("| | … {} | | | | | | |\n", DescribeFold(diff, entry));
    } else {
      AddRow(diff, entry.sites.front(), out);
    }
  }
  for (const std::string& missing : DescribeMissing(diff)) out += fmt::format("\n{}\n", Escaped(missing));
  return out;
}

}  // namespace paritrace
