#include "report/diagnosis_from_json.h"

#include <limits>

#include <fmt/format.h>

#include "core/error.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

double Number(const Json& value) {
  return value.is_null() ? std::numeric_limits<double>::infinity() : value.get<double>();
}

NamedCause CauseFromJson(const Json& json) {
  NamedCause cause{.id = json.at("id"),
                   .confidence = json.at("confidence"),
                   .statement = json.at("statement"),
                   .fix = json.at("fix")};
  if (json.contains("expected")) cause.expected = json.at("expected");
  if (json.contains("found")) cause.found = json.at("found");
  return cause;
}

Scope ScopeFromJson(const Json& json) {
  Scope scope;
  const auto read = [&](const char* key, std::vector<std::int64_t>& into) {
    if (json.contains(key)) into = json.at(key).get<std::vector<std::int64_t>>();
  };
  read("tokens", scope.tokens);
  read("heads", scope.heads);
  read("channels", scope.channels);
  read("experts", scope.experts);
  return scope;
}

Defect DefectFromJson(const Json& json) {
  Defect defect{.side = json.at("side"), .step = json.at("step"), .site = json.at("site")};
  defect.inputs = json.at("inputs").get<std::vector<std::string>>();
  defect.ratio = Number(json.at("ratio"));
  defect.cause = CauseFromJson(json.at("cause"));
  for (const Json& other : json.at("alternatives"))
    defect.alternatives.push_back({other.at("id"), other.at("confidence")});
  defect.where = ScopeFromJson(json.at("where"));
  return defect;
}

NoiseRow NoiseFromJson(const Json& json) {
  return {.step = json.at("step"),
          .site = json.at("site"),
          .introduced_nmse = Number(json.at("introduced_nmse")),
          .floor_nmse = Number(json.at("floor_nmse")),
          .ratio = Number(json.at("ratio")),
          .left_nmse = Number(json.at("left_nmse")),
          .exact = Number(json.at("exact")),
          .one_ulp = Number(json.at("one_ulp")),
          .propagated_nmse = Number(json.at("propagated_nmse")),
          .values = json.at("values"),
          .judged = json.value("judged", true)};
}

std::vector<Note> NotesFromJson(const Json& json, const char* key, const char* text) {
  std::vector<Note> notes;
  if (!json.contains(key)) return notes;
  for (const Json& note : json.at(key)) notes.push_back({note.at("what"), note.at(text)});
  return notes;
}

RoutingFlip FlipFromJson(const Json& json) {
  return {.step = json.at("step"),
          .layer = json.at("layer"),
          .token = json.at("token"),
          .reference = json.at("reference"),
          .subject = json.at("subject"),
          .margin = Number(json.at("margin")),
          .error = Number(json.at("error")),
          .benign = json.at("benign")};
}

Diagnosis Read(const Json& json) {
  Diagnosis diagnosis{.verdict = json.at("verdict"),
                      .reason = json.value("reason", ""),
                      .arithmetic = json.at("arithmetic"),
                      .arithmetic_inferred = json.at("arithmetic_inferred")};
  for (const Json& defect : json.at("defects")) diagnosis.defects.push_back(DefectFromJson(defect));
  for (const Json& row : json.at("noise")) diagnosis.noise.push_back(NoiseFromJson(row));
  diagnosis.cleared = NotesFromJson(json, "cleared", "evidence");
  diagnosis.unproven = NotesFromJson(json, "unproven", "reason");
  for (const Json& equivalence : json.at("equivalences"))
    diagnosis.equivalences.push_back({equivalence.at("site"), equivalence.at("statement")});
  for (const Json& flip : json.at("routing")) diagnosis.routing.push_back(FlipFromJson(flip));
  const Json& explained = json.at("explained");
  diagnosis.values = explained.at("values");
  diagnosis.exact = explained.at("exact");
  diagnosis.one_ulp = explained.at("one_ulp");
  diagnosis.remarks = json.at("remarks").get<std::vector<std::string>>();
  if (json.contains("layout")) {
    const Json& layout = json.at("layout");
    diagnosis.layout.layers = layout.at("layers");
    diagnosis.layout.windowed.assign(static_cast<std::size_t>(diagnosis.layout.layers), false);
    diagnosis.layout.mixture = diagnosis.layout.windowed;
    diagnosis.layout.prefill = layout.at("prefill");
    diagnosis.layout.tokens = layout.at("tokens");
  }
  diagnosis.subject_header = json.at("subject");
  if (json.contains("reference")) diagnosis.reference_header = json.at("reference");
  return diagnosis;
}

}  // namespace

Diagnosis DiagnosisFromJson(const Json& json) {
  try {
    return Read(json);
  } catch (const Json::exception& error) {
    throw UsageError(fmt::format("diagnosis: expected paritrace/diagnosis/1, found {}", error.what()));
  }
}

}  // namespace paritrace
