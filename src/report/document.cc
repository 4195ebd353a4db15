#include "report/document.h"

#include <algorithm>

#include <fmt/format.h>

#include "report/markup.h"

namespace paritrace {
namespace {

Style StyleOf(Tone tone) {
  switch (tone) {
    case Tone::kGood: return Style::kBoldGreen;
    case Tone::kBad: return Style::kBoldRed;
    case Tone::kOdd: return Style::kBoldYellow;
  }
  return Style::kPlain;
}

std::string_view ClassOf(Tone tone) {
  switch (tone) {
    case Tone::kGood: return "good";
    case Tone::kBad: return "bad";
    case Tone::kOdd: return "odd";
  }
  return "";
}

bool IsMarked(const Document::Section& section, std::size_t row) {
  return std::find(section.marked.begin(), section.marked.end(), row) != section.marked.end();
}

constexpr std::string_view kStyleSheet =
    R"(:root { color-scheme: light dark; --bad: #b3261e; --good: #1b6e3c; --odd: #8a6100; --line: #8884; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --good: #7bd89b; --odd: #e8c26a; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid var(--line); }
th.text, td.text { text-align: left; overflow-wrap: anywhere; }
.bad { color: var(--bad); } .good { color: var(--good); } .odd { color: var(--odd); }
tr.marked { outline: 2px solid var(--bad); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; } dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
)";

}  // namespace

std::string DocumentToTerminal(const Document& document, std::size_t width, bool colour) {
  std::string out = Paint(Wrap(Printable(document.sentence), width), StyleOf(document.tone), colour) + "\n";
  std::size_t widest = 0;
  for (const auto& [name, value] : document.facts) widest = std::max(widest, DisplayWidth(name));
  if (!document.facts.empty()) out += "\n";
  for (const auto& [name, value] : document.facts) {
    // Dots hold the place of the name while the lines are broken.
    const std::string text = Wrap(std::string(widest + 2, '.') + Printable(value), width, widest + 2);
    out += PadRight(name, widest + 2) + text.substr(std::min(text.size(), widest + 2)) + "\n";
  }
  for (const Document::Section& section : document.sections) {
    out += "\n";
    if (!section.heading.empty()) out += Paint(Wrap(section.heading, width), Style::kBold, colour) + "\n";
    Table table;
    table.AddColumn(" ", Table::Align::kRight);
    for (const Document::Column& column : section.columns) {
      table.AddColumn(column.heading, column.is_text ? Table::Align::kLeft : Table::Align::kRight);
    }
    for (std::size_t row = 0; row < section.rows.size(); ++row) {
      const Style style = IsMarked(section, row) ? Style::kBoldRed : Style::kPlain;
      std::vector<Table::Cell> cells = {{IsMarked(section, row) ? ">" : "", style}};
      for (const std::string& cell : section.rows[row]) cells.push_back({Printable(cell), style});
      table.AddRow(std::move(cells));
    }
    out += table.Render(width, colour);
  }
  if (!document.remarks.empty()) out += "\n";
  for (const std::string& remark : document.remarks) out += Wrap(Printable(remark), width) + "\n";
  return out;
}

std::string EscapeMarkdown(std::string_view text) {
  std::string out;
  for (const char c : Printable(text)) {
    if (std::string_view("|\\`*_<>[]#").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

std::string DocumentToMarkdown(const Document& document) {
  std::string out = fmt::format("**{}**\n\n", EscapeMarkdown(document.sentence));
  for (const auto& [name, value] : document.facts)
    out += fmt::format("- {}: {}\n", EscapeMarkdown(name), EscapeMarkdown(value));
  for (const Document::Section& section : document.sections) {
    out += "\n";
    if (!section.heading.empty()) out += fmt::format("{}\n\n", EscapeMarkdown(section.heading));
    std::string heads = "|", rules = "|";
    for (const Document::Column& column : section.columns) {
      heads += fmt::format(" {} |", EscapeMarkdown(column.heading));
      rules += column.is_text ? "---|" : "---:|";
    }
    out += heads + "\n" + rules + "\n";
    for (std::size_t row = 0; row < section.rows.size(); ++row) {
      const std::string_view strong = IsMarked(section, row) ? "**" : "";
      out += "|";
      for (const std::string& cell : section.rows[row]) {
        out += cell.empty() ? " |" : fmt::format(" {}{}{} |", strong, EscapeMarkdown(cell), strong);
      }
      out += "\n";
    }
  }
  for (const std::string& remark : document.remarks) out += fmt::format("\n{}\n", EscapeMarkdown(remark));
  return out;
}

std::string DocumentToPlainHtml(const Document& document) {
  std::string out = fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, "
      "initial-scale=1\">\n<title>{}</title>\n<style>\n{}</style>\n</head>\n<body>\n",
      EscapeMarkup(document.title), kStyleSheet);
  out += fmt::format("<h1 class=\"{}\">{}</h1>\n<dl>", ClassOf(document.tone), EscapeMarkup(document.sentence));
  for (const auto& [name, value] : document.facts)
    out += fmt::format("<dt>{}</dt><dd>{}</dd>", EscapeMarkup(name), EscapeMarkup(value));
  out += "</dl>\n";
  for (const Document::Section& section : document.sections) {
    if (!section.heading.empty()) out += fmt::format("<h2>{}</h2>\n", EscapeMarkup(section.heading));
    const auto cell = [&](std::string_view tag, std::size_t column, const std::string& text) {
      const bool is_text = column < section.columns.size() && section.columns[column].is_text;
      return fmt::format("<{}{}>{}</{}>", tag, is_text ? " class=\"text\"" : "", EscapeMarkup(text), tag);
    };
    out += "<table>\n<thead><tr>";
    for (std::size_t i = 0; i < section.columns.size(); ++i) out += cell("th", i, section.columns[i].heading);
    out += "</tr></thead>\n<tbody>\n";
    for (std::size_t row = 0; row < section.rows.size(); ++row) {
      out += IsMarked(section, row) ? "<tr class=\"marked\">" : "<tr>";
      for (std::size_t i = 0; i < section.rows[row].size(); ++i) out += cell("td", i, section.rows[row][i]);
      out += "</tr>\n";
    }
    out += "</tbody>\n</table>\n";
  }
  for (const std::string& remark : document.remarks) out += fmt::format("<p>{}</p>\n", EscapeMarkup(remark));
  return out + "</body>\n</html>\n";
}

std::string ChecksToJunit(const std::string& suite, const std::vector<Check>& checks) {
  const auto count = [&](Check::Outcome outcome) {
    return std::count_if(checks.begin(), checks.end(), [&](const Check& check) { return check.outcome == outcome; });
  };
  std::string out = fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"{0}\">\n"
      "  <testsuite name=\"{0}\" tests=\"{1}\" failures=\"{2}\" errors=\"{3}\" skipped=\"{4}\">\n",
      EscapeMarkup(suite), checks.size(), count(Check::Outcome::kFailed), count(Check::Outcome::kError),
      count(Check::Outcome::kSkipped));
  for (const Check& check : checks) {
    out += fmt::format("    <testcase classname=\"{}\" name=\"{}\"", EscapeMarkup(suite), EscapeMarkup(check.name));
    const std::string_view kind = check.outcome == Check::Outcome::kFailed    ? "failure"
                                  : check.outcome == Check::Outcome::kError   ? "error"
                                  : check.outcome == Check::Outcome::kSkipped ? "skipped"
                                                                              : "";
    out += kind.empty()
               ? "/>\n"
               : fmt::format(">\n      <{} message=\"{}\"/>\n    </testcase>\n", kind, EscapeMarkup(check.message));
  }
  return out + "  </testsuite>\n</testsuites>\n";
}

nlohmann::ordered_json ChecksToSarif(const std::string& rule, const std::string& uri,
                                     const std::vector<Check>& checks) {
  using Json = nlohmann::ordered_json;
  Json results = Json::array();
  for (const Check& check : checks) {
    if (check.outcome != Check::Outcome::kFailed && check.outcome != Check::Outcome::kError) continue;
    Json location = {{"physicalLocation", {{"artifactLocation", {{"uri", Printable(uri)}}}}},
                     {"logicalLocations", Json::array({{{"fullyQualifiedName", Printable(check.name)}}})}};
    results.push_back({{"ruleId", rule},
                       {"level", "error"},
                       {"message", {{"text", Printable(check.message)}}},
                       {"locations", Json::array({location})}});
  }
  Json driver = {{"name", "paritrace"},
                 {"version", PARITRACE_VERSION},
                 {"rules", Json::array({{{"id", rule}, {"shortDescription", {{"text", rule}}}}})}};
  return {{"$schema", "https://json.schemastore.org/sarif-2.1.0.json"},
          {"version", "2.1.0"},
          {"runs", Json::array({{{"tool", {{"driver", std::move(driver)}}}, {"results", std::move(results)}}})}};
}

}  // namespace paritrace
