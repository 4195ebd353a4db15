#include "report/diff_ci.h"

#include <cmath>

#include <fmt/format.h>

#include "report/diff_words.h"
#include "report/markup.h"
#include "report/terminal.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

bool Fails(const SiteDiff& site) {
  return site.status == SiteStatus::kDiverged || site.status == SiteStatus::kShapeMismatch;
}

std::string WhatIsWrong(const SiteDiff& site) {
  if (!site.compared) return fmt::format("{}: {}", Words(site.status), site.note);
  const PairStats& stats = site.stats;
  std::string text = fmt::format("nmse {} where rounding allows {}{}, cosine {:.6f}", ShortNumber(stats.Nmse()),
                                 ShortNumber(site.allowed * site.allowed),
                                 site.estimate ? "" : ", max abs " + ShortNumber(stats.max_abs), stats.Cosine());
  if (stats.mismatches > 0)
    text += fmt::format(", {} values NaN, infinite or masked on one side only", stats.mismatches);
  if (site.diverged_position) text += fmt::format(", from position {} on", *site.diverged_position);
  const std::string note = DescribeNote(site);
  return note.empty() ? text : text + "; " + note;
}

}  // namespace

std::string DiffToJunit(const DiffResult& diff) {
  const StatusCounts counts = diff.Counts();
  const bool incomparable = diff.verdict == Verdict::kIncomparable;
  std::string out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
  out += fmt::format(
      "<testsuites name=\"paritrace diff\">\n  <testsuite name=\"paritrace diff\" tests=\"{}\" failures=\"{}\" "
      "errors=\"{}\" skipped=\"{}\">\n",
      counts.Total() + 1, counts.diverged + counts.shape_mismatch + (diff.verdict == Verdict::kDiverged ? 1 : 0),
      counts.token_mismatch + (incomparable ? 1 : 0), counts.missing_in_subject + counts.missing_in_reference);
  const auto test_case = [&](const std::string& name, std::string_view kind, const std::string& message) {
    out += fmt::format("    <testcase classname=\"paritrace.diff\" name=\"{}\"", EscapeMarkup(name));
    if (kind.empty()) {
      out += "/>\n";
    } else {
      out += fmt::format(">\n      <{} message=\"{}\"/>\n    </testcase>\n", kind, EscapeMarkup(message));
    }
  };
  test_case("verdict",
            incomparable                         ? "error"
            : diff.verdict == Verdict::kDiverged ? "failure"
                                                 : "",
            VerdictSentence(diff));
  for (const SiteDiff& site : diff.sites) {
    const bool missing = site.status == SiteStatus::kMissingInSubject || site.status == SiteStatus::kMissingInReference;
    const std::string_view kind = Fails(site)                                 ? "failure"
                                  : missing                                   ? "skipped"
                                  : site.status == SiteStatus::kTokenMismatch ? "error"
                                                                              : "";
    test_case(fmt::format("{}/{}", site.step, site.site), kind,
              Fails(site) ? WhatIsWrong(site) : std::string(Words(site.status)));
  }
  return out + "  </testsuite>\n</testsuites>\n";
}

Json DiffToSarif(const DiffResult& diff) {
  const auto rule = [](const char* id, const char* text) {
    return Json{{"id", id}, {"shortDescription", {{"text", text}}}};
  };
  Json results = Json::array();
  const auto add = [&](const char* id, const char* level, const std::string& text, const std::string& where) {
    Json location = {{"physicalLocation", {{"artifactLocation", {{"uri", Printable(diff.subject_path)}}}}}};
    if (!where.empty()) location["logicalLocations"] = Json::array({{{"fullyQualifiedName", Printable(where)}}});
    results.push_back({{"ruleId", id},
                       {"level", level},
                       {"message", {{"text", Printable(text)}}},
                       {"locations", Json::array({location})}});
  };
  if (diff.verdict == Verdict::kIncomparable) {
    add(diff.tokens ? diff.tokens->cause.c_str() : "paritrace.incomparable", "error", VerdictSentence(diff), "");
  }
  for (std::size_t i = 0; i < diff.sites.size(); ++i) {
    const SiteDiff& site = diff.sites[i];
    if (!Fails(site)) continue;
    const std::string where = fmt::format("{}/{}", site.step, site.site);
    const bool is_first = diff.first_divergence && diff.first_divergence->index == i;
    // Only the first is certainly at fault; the others may inherit it.
    if (is_first) {
      add("paritrace.first-divergence", "error", VerdictSentence(diff), where);
    } else {
      add("paritrace.diverged", "note", where + ": " + WhatIsWrong(site), where);
    }
  }
  Json rules = Json::array(
      {rule("paritrace.first-divergence", "The first site in order of execution that rounding does not explain"),
       rule("paritrace.diverged", "A later site that diverged; it may only inherit the error"),
       rule("paritrace.incomparable", "The traces have nothing in common that could be compared"),
       rule("tokens.bos", "One side has a token more in front"), rule("tokens.shift", "The tokens are shifted"),
       rule("tokens.ids", "The tokens differ")});
  Json driver = {{"name", "paritrace"}, {"version", PARITRACE_VERSION}, {"rules", std::move(rules)}};
  return {{"$schema", "https://json.schemastore.org/sarif-2.1.0.json"},
          {"version", "2.1.0"},
          {"runs", Json::array({{{"tool", {{"driver", std::move(driver)}}}, {"results", std::move(results)}}})}};
}

}  // namespace paritrace
