#include "report/diagnosis_text.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <fmt/format.h>

#include "report/diagnosis_json.h"
#include "report/site_names.h"
#include "report/terminal.h"

namespace paritrace {
namespace {

std::string RatioText(double ratio) {
  if (!std::isfinite(ratio)) return "inf";
  return ratio >= 100 ? fmt::format("{:.0f}", ratio) : fmt::format("{:.2f}", ratio);
}

// Never rounds up to 100 what is less.
std::string Percent(double share) {
  const double percent = 100 * share;
  return share >= 1 ? "100" : percent > 99.99 ? "99.99" : fmt::format("{:.2f}", percent);
}

struct NoiseLine {
  std::string name;
  std::int64_t sites = 0, values = 0;
  double floor = 0, ratio = 0, left = 0, exact = 0, one_ulp = 0;
};

void Fold(const NoiseRow& row, NoiseLine& line) {
  ++line.sites;
  line.floor = std::max(line.floor, row.floor_nmse);
  line.ratio = std::max(line.ratio, row.ratio);
  line.left = std::max(line.left, row.left_nmse);
  line.exact += row.exact * static_cast<double>(row.values);
  line.one_ulp += row.one_ulp * static_cast<double>(row.values);
  line.values += row.values;
}

std::vector<NoiseLine> NoiseLines(const Diagnosis& diagnosis, bool every_site) {
  std::vector<NoiseLine> lines;
  for (const NoiseRow& row : diagnosis.noise) {
    const std::string name = every_site ? fmt::format("{}/{}", row.step, row.site) : RoleOf(row.site);
    auto known = std::ranges::find(lines, name, &NoiseLine::name);
    if (known == lines.end()) known = lines.insert(lines.end(), {.name = name});
    if (row.judged) Fold(row, *known);
  }
  return lines;
}

std::vector<std::string> NoiseCells(const NoiseLine& line) {
  if (line.values == 0) return {line.name, "-", "not judged", "-", "-", "-"};
  const auto values = static_cast<double>(line.values);
  return {line.name,
          fmt::format("{:.1e}", std::sqrt(line.floor)),
          RatioText(line.ratio),
          fmt::format("{:.1e}", std::sqrt(line.left)),
          Percent(line.exact / values),
          Percent(line.one_ulp / values)};
}

constexpr std::array kNoiseHeadings = {"site", "floor", "error/floor", "left", "to the bit %", "1 ULP %"};

std::string WhereText(const Scope& where) {
  std::string text;
  const auto add = [&](std::string_view what, const std::vector<std::int64_t>& numbers) {
    if (!numbers.empty())
      text += fmt::format("{}{} {}", text.empty() ? "only in " : ", ", what, DescribeNumbers(numbers));
  };
  add("tokens", where.tokens);
  add("heads", where.heads);
  add("channels", where.channels);
  add("experts", where.experts);
  return text;
}

std::string SureText(double confidence) {
  return confidence > 0 ? fmt::format("{:.0f} % sure", 100 * confidence) : "not named";
}

}  // namespace

std::string VerdictSentence(const Diagnosis& diagnosis) {
  const std::string explained = fmt::format("{} % of {} values equal {} to the bit", Percent(diagnosis.exact),
                                            diagnosis.values, diagnosis.arithmetic);
  if (diagnosis.verdict == "incomparable") return fmt::format("Nothing to compare: {}.", diagnosis.reason);
  if (diagnosis.verdict == "identical") return "Identical: every recorded value is the exact one.";
  if (diagnosis.verdict == "within_noise")
    return fmt::format("Within noise: {}'s rounding explains every recorded site ({}).", diagnosis.arithmetic,
                       explained);
  const std::vector<CauseGroup> groups = GroupCauses(diagnosis);
  std::string causes;
  for (std::size_t i = 0; i < groups.size() && i < 3; ++i) {
    causes += fmt::format("{}{} at {}{}", i > 0 ? "; " : "", groups[i].cause, DescribeSites(groups[i].sites),
                          groups[i].side == "reference" ? " of the reference" : "");
  }
  if (groups.size() > 3) causes += fmt::format("; and {} more", groups.size() - 3);
  return fmt::format("Diverged: {}.", causes);
}

std::string DiagnosisToTerminal(const Diagnosis& diagnosis, const DiagnosisTextOptions& options) {
  std::string out;
  const bool diverged = diagnosis.verdict == "diverged";
  const auto line = [&](const std::string& text, std::size_t indent = 0, Style style = Style::kPlain) {
    out += Paint(std::string(indent, ' ') + Wrap(text, options.width - indent, 0), style, options.colour) + "\n";
  };
  const auto indented = [&](const std::string& text) { out += "   " + Wrap(text, options.width - 3, 3) + "\n"; };
  out += Paint(Wrap(VerdictSentence(diagnosis), options.width),
               diverged                              ? Style::kBoldRed
               : diagnosis.verdict == "incomparable" ? Style::kBold
                                                     : Style::kBoldGreen,
               options.colour) +
         "\n";
  int number = 0;
  for (const CauseGroup& group : GroupCauses(diagnosis)) {
    out += "\n" + Paint(fmt::format("{}. {}", ++number, group.cause), Style::kBold, options.colour) +
           fmt::format("  ({}{})\n", SureText(group.confidence), group.side == "reference" ? ", in the reference" : "");
    indented(group.statement + ".");
    indented("Where: " + DescribeSites(group.sites) +
             (WhereText(group.first->where).empty() ? "" : "; " + WhereText(group.first->where)) + ".");
    if (!group.fix.empty()) indented("Fix: " + group.fix + ".");
    indented(
        fmt::format("Proof: {} replayed in f64 from the subject's own {}; its error is {} times the noise floor of {}.",
                    group.first->site, group.first->inputs.empty() ? "tokens" : DescribeSites(group.first->inputs),
                    RatioText(group.first->ratio), diagnosis.arithmetic));
    if (!group.first->alternatives.empty()) {
      std::string others;
      for (const Alternative& other : group.first->alternatives)
        others += fmt::format("{}{} ({:.0f} %)", others.empty() ? "" : ", ", other.id, 100 * other.confidence);
      indented("Also possible: " + others + ".");
    }
  }
  if (!diagnosis.counterfactual.empty()) {
    out += "\n";
    line(diagnosis.counterfactual);
  }
  for (const Equivalence& equivalence : diagnosis.equivalences) {
    out += "\n";
    line(fmt::format("No effect: {} at {}.", equivalence.statement, equivalence.site));
  }
  if (!diagnosis.cleared.empty()) {
    out += "\n" + Paint("Ruled out", Style::kBold, options.colour) + "\n";
    for (const Note& note : diagnosis.cleared) indented(fmt::format("{}: {}", note.what, note.evidence));
  }
  if (!diagnosis.unproven.empty()) {
    out += "\n" + Paint("Not proven", Style::kBold, options.colour) + "\n";
    for (const Note& note : diagnosis.unproven) indented(fmt::format("{}: {}", note.what, note.evidence));
  }
  out += "\n" +
         Paint(fmt::format("Noise of {}{}", diagnosis.arithmetic,
                           diagnosis.arithmetic_inferred ? " (inferred from the values)" : ""),
               Style::kBold, options.colour) +
         (options.every_site ? "" : ", worst over layers and steps (--sites shows each)") + "\n";
  Table table;
  for (std::size_t i = 0; i < kNoiseHeadings.size(); ++i)
    table.AddColumn(kNoiseHeadings[i], i == 0 ? Table::Align::kLeft : Table::Align::kRight);
  for (const NoiseLine& noise : NoiseLines(diagnosis, options.every_site)) {
    std::vector<Table::Cell> cells;
    for (std::string& text : NoiseCells(noise)) cells.push_back({std::move(text)});
    table.AddRow(std::move(cells));
  }
  out += table.Render(options.width, options.colour);
  out += Wrap(
             "floor: error that the arithmetic alone makes; left: error after its rounding is emulated and subtracted; "
             "both relative to the output.",
             options.width) +
         "\n";
  for (const std::string& remark : diagnosis.remarks) line("Note: " + remark + ".");
  return out;
}

std::string DiagnosisToMarkdown(const Diagnosis& diagnosis) {
  std::string out = fmt::format("**{}**\n", VerdictSentence(diagnosis));
  for (const CauseGroup& group : GroupCauses(diagnosis)) {
    out += fmt::format("\n### `{}` ({}{})\n\n{}.\n\n- Where: {}\n- Fix: {}\n- Error over noise floor at `{}`: {}\n",
                       group.cause, SureText(group.confidence), group.side == "reference" ? ", in the reference" : "",
                       group.statement, DescribeSites(group.sites), group.fix, group.first->site,
                       RatioText(group.first->ratio));
  }
  for (const Equivalence& equivalence : diagnosis.equivalences)
    out += fmt::format("\nNo effect: {} (`{}`)\n", equivalence.statement, equivalence.site);
  if (!diagnosis.cleared.empty()) out += "\n### Ruled out\n\n";
  for (const Note& note : diagnosis.cleared) out += fmt::format("- {}: {}\n", note.what, note.evidence);
  if (!diagnosis.unproven.empty()) out += "\n### Not proven\n\n";
  for (const Note& note : diagnosis.unproven) out += fmt::format("- {}: {}\n", note.what, note.evidence);
  out += fmt::format("\n### Noise of `{}`\n\n", diagnosis.arithmetic);
  for (const char* heading : kNoiseHeadings) out += fmt::format("| {} ", heading);
  out += "|\n|---|---:|---:|---:|---:|---:|\n";
  for (const NoiseLine& noise : NoiseLines(diagnosis, false)) {
    for (const std::string& text : NoiseCells(noise)) out += fmt::format("| {} ", text);
    out += "|\n";
  }
  if (!diagnosis.counterfactual.empty()) out += fmt::format("\n{}\n", diagnosis.counterfactual);
  for (const std::string& remark : diagnosis.remarks) out += fmt::format("\nNote: {}.\n", remark);
  return out;
}

}  // namespace paritrace
