// report/document.h for Python: the commands that run there write the same HTML, JUnit and SARIF as those of the program.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "bind_core.h"
#include "core/error.h"
#include "report/document.h"
#include "report/page.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace paritrace {
namespace {

using Row = std::vector<std::string>;
using PlainCheck = std::tuple<std::string, std::string, std::string>;  // name, outcome, message
using PlainSection = std::tuple<std::string, Row, std::vector<Row>>;   // heading, headings of columns, rows

std::vector<Check> ToChecks(const std::vector<PlainCheck>& plain) {
  std::vector<Check> checks;
  for (const auto& [name, outcome, message] : plain) {
    const auto is = [&](const char* word) { return outcome == word; };
    if (!is("passed") && !is("failed") && !is("skipped") && !is("error")) {
      throw UsageError(fmt::format("check \"{}\": expected passed, failed, skipped or error, found {}", name, outcome));
    }
    checks.push_back({name,
                      is("failed")    ? Check::Outcome::kFailed
                      : is("skipped") ? Check::Outcome::kSkipped
                      : is("error")   ? Check::Outcome::kError
                                      : Check::Outcome::kPassed,
                      message});
  }
  return checks;
}

std::string Html(const std::string& result, const std::string& title, const std::string& tone,
                 const std::string& sentence, const std::vector<std::pair<std::string, std::string>>& facts,
                 const std::vector<PlainSection>& sections, const std::vector<std::string>& remarks) {
  Document document{.title = title, .sentence = sentence, .facts = facts, .remarks = remarks};
  document.tone = tone == "good" ? Tone::kGood : tone == "bad" ? Tone::kBad : Tone::kOdd;
  for (const auto& [heading, columns, rows] : sections) {
    Document::Section section{.heading = heading};
    for (const std::string& column : columns) section.columns.push_back({column, true});
    for (const Row& row : rows) {
      if (row.size() != columns.size()) {
        throw UsageError(fmt::format("{}: expected rows of {} cells, found {}", heading, columns.size(), row.size()));
      }
    }
    section.rows = rows;
    document.sections.push_back(std::move(section));
  }
  return DocumentToHtml(document, nlohmann::ordered_json::parse(result));
}

}  // namespace

void BindReport(nb::module_& module) {
  module.def(
      "report_junit",
      [](const std::string& suite, const std::vector<PlainCheck>& checks) {
        return ChecksToJunit(suite, ToChecks(checks));
      },
      "suite"_a, "checks"_a,
      "checks: (name, \"passed\"|\"failed\"|\"skipped\"|\"error\", message). Errors: ValueError.");
  module.def(
      "report_sarif",
      [](const std::string& rule, const std::string& uri, const std::vector<PlainCheck>& checks) {
        return ChecksToSarif(rule, uri, ToChecks(checks)).dump(1) + "\n";
      },
      "rule"_a, "uri"_a, "checks"_a, "As SARIF 2.1.0. Errors: ValueError.");
  module.def("report_html", &Html, "result"_a, "title"_a, "tone"_a, "sentence"_a, "facts"_a, "sections"_a, "remarks"_a,
             "One self-contained page with the result (JSON) in it. tone: \"good\", \"bad\" or \"odd\"; sections: "
             "(heading, headings of columns, "
             "rows). Errors: ValueError.");
}

}  // namespace paritrace
