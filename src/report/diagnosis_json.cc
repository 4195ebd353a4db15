#include "report/diagnosis_json.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "report/site_names.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

// JSON has no NaN and no infinity: null, and a mark beside it.
void Put(Json& object, const char* key, double value) {
  if (std::isfinite(value)) {
    object[key] = value;
  } else {
    object[key] = nullptr;
    object["nonfinite"] = true;
  }
}

Json CauseToJson(const NamedCause& cause) {
  Json json = {{"id", cause.id}, {"confidence", cause.confidence}, {"statement", cause.statement}, {"fix", cause.fix}};
  if (!cause.expected.is_null() || !cause.found.is_null()) {
    json["expected"] = cause.expected;
    json["found"] = cause.found;
  }
  return json;
}

Json WhereToJson(const Scope& scope) {
  Json where = Json::object();
  if (!scope.tokens.empty()) where["tokens"] = scope.tokens;
  if (!scope.heads.empty()) where["heads"] = scope.heads;
  if (!scope.channels.empty()) where["channels"] = scope.channels;
  if (!scope.experts.empty()) where["experts"] = scope.experts;
  return where;
}

Json DefectToJson(const Defect& defect) {
  Json json = {{"side", defect.side}, {"step", defect.step}, {"site", defect.site}, {"inputs", defect.inputs}};
  Put(json, "ratio", defect.ratio);
  json["cause"] = CauseToJson(defect.cause);
  json["alternatives"] = Json::array();
  for (const Alternative& other : defect.alternatives)
    json["alternatives"].push_back({{"id", other.id}, {"confidence", other.confidence}});
  json["where"] = WhereToJson(defect.where);
  if (!defect.origin.empty()) json["origin"] = defect.origin;
  return json;
}

Json FlipToJson(const RoutingFlip& flip) {
  Json json = {{"step", flip.step},
               {"layer", flip.layer},
               {"token", flip.token},
               {"reference", flip.reference},
               {"subject", flip.subject}};
  Put(json, "margin", flip.margin);
  Put(json, "error", flip.error);
  json["benign"] = flip.benign;
  return json;
}

Json TokensToJson(const TokenMismatch& tokens) {
  return {{"cause", tokens.cause},
          {"statement", tokens.statement},
          {"sequence", tokens.sequence},
          {"position", tokens.position},
          {"reference", tokens.reference ? Json(*tokens.reference) : Json(nullptr)},
          {"subject", tokens.subject ? Json(*tokens.subject) : Json(nullptr)}};
}

Json NoiseToJson(const NoiseRow& row) {
  Json json = {{"step", row.step}, {"site", row.site}};
  Put(json, "introduced_nmse", row.introduced_nmse);
  Put(json, "floor_nmse", row.floor_nmse);
  Put(json, "ratio", row.ratio);
  Put(json, "left_nmse", row.left_nmse);
  Put(json, "exact", row.exact);
  Put(json, "one_ulp", row.one_ulp);
  Put(json, "propagated_nmse", row.propagated_nmse);
  json["values"] = row.values;
  if (!row.judged) json["judged"] = false;
  return json;
}

// What the defects of a group share, after the statement.
void AddCommonGround(const RunLayout& layout, const std::vector<const Defect*>& defects, CauseGroup& group) {
  std::vector<int> layers;
  bool all_in_layers = true;
  for (const Defect* defect : defects) {
    int layer = -1;
    (void)RoleOf(defect->site, &layer);
    all_in_layers &= layer >= 0;
    if (layer >= 0 && std::ranges::find(layers, layer) == layers.end()) layers.push_back(layer);
  }
  std::ranges::sort(layers);
  const bool same_tokens = std::ranges::all_of(
      defects, [&](const Defect* defect) { return defect->where.tokens == defects[0]->where.tokens; });
  const std::string ground = CommonGround(layout, all_in_layers ? layers : std::vector<int>(),
                                          same_tokens ? defects[0]->where.tokens : std::vector<std::int64_t>());
  if (!ground.empty()) group.statement += "; " + ground;
}

}  // namespace

std::vector<CauseGroup> GroupCauses(const Diagnosis& diagnosis) {
  std::vector<CauseGroup> groups;
  std::vector<std::vector<const Defect*>> members;
  for (const Defect& defect : diagnosis.defects) {
    CauseGroup* group = nullptr;
    for (CauseGroup& known : groups) {
      const bool same = known.side == defect.side && known.cause == defect.cause.id &&
                        known.first->cause.found == defect.cause.found &&
                        (defect.cause.id != "unknown" || known.first->cause.statement == defect.cause.statement);
      if (same) group = &known;
    }
    if (group == nullptr) {
      groups.push_back({.side = defect.side,
                        .cause = defect.cause.id,
                        .statement = defect.cause.statement,
                        .fix = defect.cause.fix,
                        .confidence = defect.cause.confidence,
                        .first = &defect});
      group = &groups.back();
      members.emplace_back();
    }
    group->sites.push_back(defect.site);
    members[static_cast<std::size_t>(group - groups.data())].push_back(&defect);
    group->confidence = std::min(group->confidence, defect.cause.confidence);
  }
  for (std::size_t i = 0; i < groups.size(); ++i) AddCommonGround(diagnosis.layout, members[i], groups[i]);
  return groups;
}

Json DiagnosisToJson(const Diagnosis& diagnosis) {
  Json json = {{"schema", "paritrace/diagnosis/1"},
               {"verdict", diagnosis.verdict},
               {"arithmetic", diagnosis.arithmetic},
               {"arithmetic_inferred", diagnosis.arithmetic_inferred}};
  if (!diagnosis.reason.empty()) json["reason"] = diagnosis.reason;
  if (diagnosis.tokens) json["tokens"] = TokensToJson(*diagnosis.tokens);
  json["defects"] = Json::array();
  for (const Defect& defect : diagnosis.defects) json["defects"].push_back(DefectToJson(defect));
  json["summary"] = Json::array();
  for (const CauseGroup& group : GroupCauses(diagnosis)) {
    json["summary"].push_back({{"side", group.side},
                               {"cause", group.cause},
                               {"sites", group.sites},
                               {"statement", group.statement},
                               {"fix", group.fix}});
  }
  json["cleared"] = Json::array();
  for (const Note& note : diagnosis.cleared)
    json["cleared"].push_back({{"what", note.what}, {"evidence", note.evidence}});
  if (!diagnosis.unproven.empty()) {
    json["unproven"] = Json::array();
    for (const Note& note : diagnosis.unproven)
      json["unproven"].push_back({{"what", note.what}, {"reason", note.evidence}});
  }
  json["noise"] = Json::array();
  for (const NoiseRow& row : diagnosis.noise) json["noise"].push_back(NoiseToJson(row));
  json["explained"] = {{"values", diagnosis.values}, {"exact", diagnosis.exact}, {"one_ulp", diagnosis.one_ulp}};
  json["routing"] = Json::array();
  for (const RoutingFlip& flip : diagnosis.routing) json["routing"].push_back(FlipToJson(flip));
  json["equivalences"] = Json::array();
  for (const Equivalence& equivalence : diagnosis.equivalences) {
    json["equivalences"].push_back({{"site", equivalence.site}, {"statement", equivalence.statement}});
  }
  json["remarks"] = diagnosis.remarks;
  if (!diagnosis.counterfactual.empty()) json["counterfactual"] = diagnosis.counterfactual;
  json["subject"] = diagnosis.subject_header;
  if (!diagnosis.reference_header.is_null()) json["reference"] = diagnosis.reference_header;
  return json;
}

}  // namespace paritrace
