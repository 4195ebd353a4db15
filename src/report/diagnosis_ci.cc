#include "report/diagnosis_ci.h"

#include <map>
#include <set>

#include <fmt/format.h>

#include "report/diagnosis_json.h"
#include "report/diagnosis_text.h"
#include "report/markup.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

std::string CaseName(int step, const std::string& site) { return fmt::format("step {} {}", step, site); }

}  // namespace

std::string DiagnosisToJunit(const Diagnosis& diagnosis) {
  std::map<std::pair<int, std::string>, std::vector<const Defect*>> defects;
  std::vector<std::pair<int, std::string>> cases;  // in order of execution
  std::set<std::pair<int, std::string>> seen;
  for (const NoiseRow& row : diagnosis.noise) {
    if (seen.emplace(row.step, row.site).second) cases.emplace_back(row.step, row.site);
  }
  for (const Defect& defect : diagnosis.defects) {
    const std::pair key(defect.step, defect.side == "reference" ? "reference: " + defect.site : defect.site);
    if (seen.insert(key).second) cases.push_back(key);
    defects[key].push_back(&defect);
  }
  std::string out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
  const bool incomparable = diagnosis.verdict == "incomparable";  // nothing was judged: no build may be green by that
  out += fmt::format("<testsuites><testsuite name=\"paritrace diagnose\" tests=\"{}\" failures=\"{}\" errors=\"{}\">\n",
                     cases.size() + (incomparable ? 1 : 0), defects.size(), incomparable ? 1 : 0);
  if (incomparable) {
    const std::string reason = EscapeMarkup(diagnosis.reason);
    out +=
        fmt::format("<testcase classname=\"paritrace\" name=\"diagnose\"><error message=\"{}\">{}</error></testcase>\n",
                    reason, reason);
  }
  for (const auto& key : cases) {
    out += fmt::format("<testcase classname=\"paritrace\" name=\"{}\"", EscapeMarkup(CaseName(key.first, key.second)));
    const auto found = defects.find(key);
    if (found == defects.end()) {
      out += "/>\n";
      continue;
    }
    out += ">";
    std::string message, body;
    for (const Defect* defect : found->second) {
      message += fmt::format("{}{}", message.empty() ? "" : ", ", defect->cause.id);
      body += fmt::format("{}: {}. Fix: {}.\n", defect->cause.id, defect->cause.statement, defect->cause.fix);
    }
    out += fmt::format("<failure message=\"{}\">{}</failure></testcase>\n", EscapeMarkup(message), EscapeMarkup(body));
  }
  return out + "</testsuite></testsuites>\n";
}

Json DiagnosisToSarif(const Diagnosis& diagnosis) {
  Json rules = Json::array(), results = Json::array();
  std::set<std::string> known;
  for (const Defect& defect : diagnosis.defects) {
    if (known.insert(defect.cause.id).second)
      rules.push_back({{"id", defect.cause.id}, {"shortDescription", {{"text", defect.cause.id}}}});
    results.push_back(
        {{"ruleId", defect.cause.id},
         {"level", "error"},
         {"message",
          {{"text", fmt::format("{} at {}: {}. Fix: {}.", defect.cause.id, defect.site, defect.cause.statement,
                                defect.cause.fix)}}},
         {"locations", Json::array({{{"logicalLocations",
                                      Json::array({{{"fullyQualifiedName", defect.site}, {"kind", "member"}}})}}})}});
  }
  return {
      {"$schema", "https://json.schemastore.org/sarif-2.1.0.json"},
      {"version", "2.1.0"},
      {"runs",
       Json::array({{{"tool", {{"driver", {{"name", "paritrace"}, {"version", PARITRACE_VERSION}, {"rules", rules}}}}},
                     {"results", results},
                     {"properties", {{"verdict", diagnosis.verdict}, {"sentence", VerdictSentence(diagnosis)}}}}})}};
}

}  // namespace paritrace
