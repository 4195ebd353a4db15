#include "report/diagnosis_page.h"

#include <fmt/format.h>

#include "report/diagnosis_html.h"
#include "report/diagnosis_json.h"
#include "report/diagnosis_text.h"
#include "report/page.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

// How the page calls the two sides of a site's values.
constexpr std::string_view kExpected = "replay in f64", kRecorded = "recorded";

Json ViewToJson(const SiteView& view) {
  Json json = {{"values", view.values}};
  if (!view.token_error.empty()) {
    json["tokens"] = {
        {"bin", view.token_bin}, {"error", PackF32(view.token_error)}, {"floor", PackF32(view.token_floor)}};
  }
  if (view.heads > 0)
    json["heads"] = {{"count", view.heads}, {"bin", view.head_bin}, {"ratio", PackF32(view.head_ratio)}};
  if (!view.rows.empty()) {
    json["samples"] = {{"rows", PackU32(view.rows)},
                       {"columns", PackU32(view.columns)},
                       {"reference", PackF32(view.expected)},
                       {"subject", PackF32(view.recorded)},
                       {"worst", view.worst}};
  }
  if (!view.expected_counts.empty()) {
    json["histogram"] = {{"low", view.low},
                         {"high", view.high},
                         {"reference", view.expected_counts},
                         {"subject", view.recorded_counts},
                         {"outside", view.outside}};
  }
  return json;
}

std::string EngineOf(const Json& header) {
  const auto engine = header.find("engine");
  if (engine == header.end() || !engine->is_object()) return "";
  std::string text;
  for (const char* key : {"name", "version"}) {
    const auto value = engine->find(key);
    if (value != engine->end() && value->is_string()) text += (text.empty() ? "" : " ") + value->get<std::string>();
  }
  return text;
}

}  // namespace

Document DiagnosisToDocument(const Diagnosis& diagnosis) {
  Document document{.title = "paritrace diagnose",
                    .tone = diagnosis.verdict == "diverged" ? Tone::kBad : Tone::kGood,
                    .sentence = VerdictSentence(diagnosis)};
  if (const std::string engine = EngineOf(diagnosis.subject_header); !engine.empty())
    document.facts.emplace_back("subject", engine);
  if (const std::string engine = EngineOf(diagnosis.reference_header); !engine.empty())
    document.facts.emplace_back("reference", engine);
  document.facts.emplace_back(
      "arithmetic", diagnosis.arithmetic + (diagnosis.arithmetic_inferred ? " (inferred from the values)" : ""));
  for (const std::string& remark : diagnosis.remarks) document.remarks.push_back(remark + ".");
  return document;
}

std::string DiagnosisToHtml(const Diagnosis& diagnosis, const std::vector<std::string>& tokens) {
  if (PageTemplate().empty()) return DiagnosisToPlainHtml(diagnosis);
  Json sites = Json::object();
  for (const SiteView& view : diagnosis.views) sites[view.site] = ViewToJson(view);
  return FillPage(
      PageTemplate(), DiagnosisToDocument(diagnosis), DiagnosisToJson(diagnosis),
      {.markdown = DiagnosisToMarkdown(diagnosis),
       .tokens = tokens,
       .views = {{"reference_label", kExpected}, {"subject_label", kRecorded}, {"sites", std::move(sites)}}});
}

}  // namespace paritrace
