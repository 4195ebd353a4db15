// A report as data: the answer, some facts, some tables. Written once for a command, shown as terminal text, Markdown or
// HTML, and as the test results that machines read.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "report/terminal.h"

namespace paritrace {

enum class Tone { kGood, kBad, kOdd };

struct Document {
  struct Column {
    std::string heading;
    bool is_text = false;  // left-aligned, may be shortened; figures are right-aligned
  };
  struct Section {
    std::string heading;
    std::vector<Column> columns;
    std::vector<std::vector<std::string>> rows;
    std::vector<std::size_t> marked;  // rows that the answer speaks of
  };
  std::string title;  // "paritrace logits"
  Tone tone = Tone::kGood;
  std::string sentence;  // the answer
  std::vector<std::pair<std::string, std::string>> facts;
  std::vector<Section> sections;
  std::vector<std::string> remarks;  // after the tables
};

[[nodiscard]] std::string DocumentToTerminal(const Document& document, std::size_t width, bool colour);
[[nodiscard]] std::string DocumentToMarkdown(const Document& document);
[[nodiscard]] std::string DocumentToPlainHtml(const Document& document);

// One check that passed or did not, for JUnit and SARIF.
struct Check {
  enum class Outcome { kPassed, kFailed, kSkipped, kError };
  std::string name;
  Outcome outcome = Outcome::kPassed;
  std::string message;  // empty where passed
};
// suite: "paritrace logits"
[[nodiscard]] std::string ChecksToJunit(const std::string& suite, const std::vector<Check>& checks);
// rule: the id of what a failed check found; uri: the file or trace under test.
[[nodiscard]] nlohmann::ordered_json ChecksToSarif(const std::string& rule, const std::string& uri,
                                                   const std::vector<Check>& checks);

// Text made safe inside Markdown.
[[nodiscard]] std::string EscapeMarkdown(std::string_view text);

}  // namespace paritrace
