#include "report/diagnosis_page.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>

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

// Rows beyond this many, of runs with many steps, go into the page as packed columns (report/src/noise.ts).
constexpr std::size_t kMostNoiseRows = 5000;

Json PackNoise(const std::vector<NoiseRow>& rows) {
  std::map<std::string, std::uint32_t> known;
  std::vector<std::string> names;
  std::vector<std::uint32_t> site, step, values, judged;
  for (const NoiseRow& row : rows) {
    const auto [at, is_new] = known.try_emplace(row.site, static_cast<std::uint32_t>(names.size()));
    if (is_new) names.push_back(row.site);
    site.push_back(at->second);
    step.push_back(static_cast<std::uint32_t>(row.step));
    values.push_back(static_cast<std::uint32_t>(std::min<std::int64_t>(row.values, UINT32_MAX)));
    judged.push_back(row.judged ? 1 : 0);
  }
  Json packed = {{"sites", std::move(names)},
                 {"site", PackU32(site)},
                 {"step", PackU32(step)},
                 {"values", PackU32(values)},
                 {"judged", PackU32(judged)}};
  const std::pair<const char*, double NoiseRow::*> figures[] = {{"introduced_nmse", &NoiseRow::introduced_nmse},
                                                                {"floor_nmse", &NoiseRow::floor_nmse},
                                                                {"ratio", &NoiseRow::ratio},
                                                                {"left_nmse", &NoiseRow::left_nmse},
                                                                {"exact", &NoiseRow::exact},
                                                                {"one_ulp", &NoiseRow::one_ulp},
                                                                {"propagated_nmse", &NoiseRow::propagated_nmse}};
  for (const auto& [name, member] : figures) {
    std::vector<float> column;
    for (const NoiseRow& row : rows) column.push_back(static_cast<float>(row.*member));
    packed[name] = PackF32(column);
  }
  return packed;
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
                    .tone = diagnosis.verdict == "diverged"       ? Tone::kBad
                            : diagnosis.verdict == "incomparable" ? Tone::kOdd
                                                                  : Tone::kGood,
                    .sentence = VerdictSentence(diagnosis)};
  if (const std::string engine = EngineOf(diagnosis.subject_header); !engine.empty())
    document.facts.emplace_back("subject", engine);
  if (const std::string engine = EngineOf(diagnosis.reference_header); !engine.empty())
    document.facts.emplace_back("reference", engine);
  document.facts.emplace_back(
      "arithmetic", diagnosis.arithmetic + (diagnosis.arithmetic_inferred ? " (inferred from the values)" : ""));
  for (const Note& note : diagnosis.unproven)
    document.remarks.push_back(fmt::format("Not proven: {}: {}.", note.what, note.evidence));
  for (const std::string& remark : diagnosis.remarks) document.remarks.push_back(remark + ".");
  return document;
}

std::string DiagnosisToHtml(const Diagnosis& diagnosis, const std::vector<std::string>& tokens) {
  if (PageTemplate().empty()) return DiagnosisToPlainHtml(diagnosis);
  Json sites = Json::object();
  for (const SiteView& view : diagnosis.views) sites[view.site] = ViewToJson(view);
  Json result = DiagnosisToJson(diagnosis);
  if (diagnosis.noise.size() > kMostNoiseRows) result["noise"] = PackNoise(diagnosis.noise);
  return FillPage(
      PageTemplate(), DiagnosisToDocument(diagnosis), result,
      {.markdown = DiagnosisToMarkdown(diagnosis),
       .tokens = tokens,
       .views = {{"reference_label", kExpected}, {"subject_label", kRecorded}, {"sites", std::move(sites)}}});
}

}  // namespace paritrace
