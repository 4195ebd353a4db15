#include "report/diff_terminal.h"

#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "report/diff_detail.h"
#include "report/diff_words.h"
#include "report/terminal.h"

namespace paritrace {
namespace {

Style StyleOf(Verdict verdict) {
  switch (verdict) {
    case Verdict::kIdentical:
    case Verdict::kWithinNoise: return Style::kBoldGreen;
    case Verdict::kDiverged: return Style::kBoldRed;
    case Verdict::kIncomparable: return Style::kBoldYellow;
  }
  return Style::kPlain;
}

Style StyleOf(SiteStatus status) {
  switch (status) {
    case SiteStatus::kIdentical:
    case SiteStatus::kWithinNoise: return Style::kGreen;
    case SiteStatus::kDiverged:
    case SiteStatus::kShapeMismatch: return Style::kRed;
    default: return Style::kYellow;
  }
}

class TerminalReport {
 public:
  TerminalReport(const DiffResult& diff, const DiffTerminalOptions& options) : diff_(diff), options_(options) {
    has_steps_ = std::any_of(diff.sites.begin(), diff.sites.end(), [](const SiteDiff& site) { return site.step != 0; });
  }

  std::string Write() {
    const std::string sentence = Wrap(Printable(VerdictSentence(diff_)), options_.width);
    std::string out = Paint(sentence, StyleOf(diff_.verdict), options_.colour) + "\n\n";
    const auto line = [&](std::string_view what, const std::string& text) {
      out += fmt::format("{:<11}", what) + Indented(Printable(text), 11) + "\n";
    };
    line("reference", DescribeSide(diff_.reference, diff_.reference_rounding, diff_.reference_path));
    line("subject", DescribeSide(diff_.subject, diff_.subject_rounding, diff_.subject_path));
    out += Wrap(DescribeCounts(diff_.Counts()), options_.width) + "\n";
    if (diff_.sites.empty() || (diff_.tokens && diff_.verdict == Verdict::kIncomparable)) return out;
    out += "\n" + Rows();
    out += Notes();
    if (const std::string detail = DetailTable(diff_, options_.width, options_.colour); !detail.empty())
      out += "\n" + detail;
    if (!options_.all) {
      for (const std::string& missing : DescribeMissing(diff_))
        out += Wrap(Printable(missing), options_.width, 2) + "\n";
    }
    if (diff_.verdict == Verdict::kDiverged) {
      out += "\n" +
             Wrap(
                 "What stands after the first divergence may only inherit it. paritrace diagnose SUBJECT --model MODEL "
                 "replays each "
                 "site from its own inputs and names the cause.",
                 options_.width) +
             "\n";
    }
    return out;
  }

 private:
  // Text that starts at column `indent` and stays there.
  std::string Indented(const std::string& text, std::size_t indent) const {
    return Wrap(std::string(indent, '.') + text, options_.width, indent).substr(indent);
  }

  std::string Rows() const {
    Table table;
    table.AddColumn(" ", Table::Align::kLeft);
    table.AddColumn("site", Table::Align::kLeft);
    table.AddColumn("nmse", Table::Align::kRight);
    table.AddColumn("allowed", Table::Align::kRight);
    table.AddColumn("max abs", Table::Align::kRight);
    table.AddColumn("cosine", Table::Align::kRight);
    table.AddColumn("status", Table::Align::kRight);
    std::optional<int> step;
    for (const TableEntry& entry : FoldRuns(diff_, options_.all)) {
      const SiteDiff& first = diff_.sites[entry.sites.front()];
      if (has_steps_ && step != first.step) table.AddNote(fmt::format("step {}", first.step), Style::kBold);
      step = first.step;
      if (entry.is_fold) {
        table.AddNote("   … " + DescribeFold(diff_, entry));
      } else {
        AddSite(table, entry.sites.front());
      }
    }
    return table.Render(options_.width, options_.colour);
  }

  void AddSite(Table& table, std::size_t index) const {
    const SiteDiff& site = diff_.sites[index];
    const bool is_first = diff_.first_divergence && diff_.first_divergence->index == index;
    const Style style = is_first ? Style::kBoldRed : Style::kPlain;
    std::vector<Table::Cell> cells = {{is_first ? ">" : "", style}};
    const std::string mark = Mark(site);
    cells.push_back({Printable(site.site) + mark, style});
    const PairStats& stats = site.stats;
    if (site.compared && stats.mismatches > 0) {
      const std::string what = stats.nan_either > 0 ? "NaN" : stats.inf_either > 0 ? "inf" : "mask";
      cells.insert(
          cells.end(),
          {{what, style}, {ShortNumber(site.allowed * site.allowed), Style::kDim}, {what, style}, {what, style}});
    } else if (site.compared) {
      cells.insert(cells.end(), {{ShortNumber(stats.Nmse()), style},
                                 {ShortNumber(site.allowed * site.allowed), Style::kDim},
                                 {site.estimate ? "-" : ShortNumber(stats.max_abs), style},
                                 {fmt::format("{:.6f}", stats.Cosine()), style}});
    } else {
      cells.insert(cells.end(), 4, {"-", Style::kDim});
    }
    const bool missing = site.status == SiteStatus::kMissingInReference || site.status == SiteStatus::kMissingInSubject;
    cells.push_back({site.undecided ? "undecided"
                     : missing      ? "missing"
                                    : std::string(Words(site.status)),
                     is_first ? style : StyleOf(site.status)});
    table.AddRow(std::move(cells));
  }

  // A raised number where something was assumed; what it was stands below the table.
  std::string Mark(const SiteDiff& site) const {
    const std::string note = DescribeNote(site);
    if (note.empty()) return "";
    const auto found = std::find(notes_.begin(), notes_.end(), note);
    const auto number = static_cast<std::size_t>(found - notes_.begin()) + 1;
    if (found == notes_.end()) notes_.push_back(note);
    return fmt::format(" [{}]", number);
  }

  std::string Notes() const {
    std::string out;
    for (std::size_t i = 0; i < notes_.size(); ++i) {
      out += Wrap(fmt::format("[{}] {}", i + 1, Printable(notes_[i])), options_.width, 4) + "\n";
    }
    return out;
  }

  const DiffResult& diff_;
  const DiffTerminalOptions& options_;
  bool has_steps_ = false;
  mutable std::vector<std::string> notes_;
};

}  // namespace

std::string DiffToTerminal(const DiffResult& diff, const DiffTerminalOptions& options) {
  return TerminalReport(diff, options).Write();
}

}  // namespace paritrace
