#include "report/weights_report.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "report/diff_words.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

Json Number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json SideToJson(const WeightSource& source) {
  Json out = {{"path", source.path}, {"format", source.format}, {"tensors", source.weights.size()}};
  out["architecture"] = source.architecture.empty() ? Json(nullptr) : Json(source.architecture);
  out["head_dim"] = source.head_dim > 0 ? Json(source.head_dim) : Json(nullptr);
  out["not_known"] = source.not_known;
  return out;
}

Json StatsToJson(const WeightStats& stats, const Shape& shape) {
  Json at = Json::array();
  std::int64_t flat = stats.max_abs_at;
  for (auto axis = shape.rbegin(); axis != shape.rend() && *axis > 0; ++axis) {
    at.insert(at.begin(), flat % *axis);
    flat /= *axis;
  }
  Json out = {{"values", stats.values},
              {"exact", stats.exact},
              {"nonfinite", stats.nonfinite},
              {"max_abs", Number(stats.max_abs)},
              {"max_abs_at", std::move(at)},
              {"rms_reference", Number(stats.rms_reference)},
              {"rms_subject", Number(stats.rms_subject)},
              {"rms_error", Number(stats.rms_error)}};
  out["expected_rms_error"] = stats.has_bound ? Number(stats.expected_rms) : Json(nullptr);
  out["half_step_rms"] = stats.has_bound ? Number(stats.half_step_rms) : Json(nullptr);
  out["slope"] = Number(stats.slope);
  out["correlation"] = Number(stats.correlation);
  out["groups"] = stats.groups;
  out["bad_groups"] = stats.bad_groups;
  return out;
}

Json CauseToJson(const WeightCause& cause) {
  Json out = {{"id", cause.id}, {"confidence", cause.confidence}, {"statement", cause.statement}};
  if (!cause.fix.empty()) out["fix"] = cause.fix;
  if (!cause.expected.is_null()) out["expected"] = cause.expected;
  if (!cause.found.is_null()) out["found"] = cause.found;
  return out;
}

struct Group {
  std::string id, statement;
  std::vector<std::string> keys;
};
// Causes with the tensors that have them, in order of the first.
std::vector<Group> Groups(const WeightsResult& result) {
  std::vector<Group> groups;
  for (const WeightPair& pair : result.pairs) {
    if (!pair.cause) continue;
    auto found = std::ranges::find(groups, pair.cause->id, &Group::id);
    if (found == groups.end()) found = groups.insert(groups.end(), {pair.cause->id, pair.cause->statement, {}});
    found->keys.push_back(pair.key);
  }
  return groups;
}

std::string Sentence(const WeightsResult& result) {
  if (result.verdict == Verdict::kIncomparable) return fmt::format("Nothing to compare: {}.", result.reason);
  std::size_t compared = 0;
  for (const WeightPair& pair : result.pairs) compared += pair.stats.has_value();
  if (result.verdict == Verdict::kIdentical) return fmt::format("The same values in all {} tensors.", compared);
  if (result.verdict == Verdict::kWithinNoise)
    return fmt::format("The same weights: {} tensors differ by no more than the rounding of their types.", compared);
  const std::vector<Group> groups = Groups(result);
  std::size_t wrong = 0;
  for (const Group& group : groups) wrong += group.keys.size();
  const Group& first = groups.front();
  return fmt::format("{} of {} tensors are other weights; {}: {} ({}).", wrong, result.pairs.size(), first.keys.front(),
                     first.statement, first.id);
}

std::string Ratio(const WeightPair& pair) {
  if (!pair.stats) return "";
  if (pair.status == SiteStatus::kIdentical) return "0";
  if (!pair.stats->has_bound || !(pair.stats->expected_rms > 0)) return "no bound";
  return ShortNumber(pair.stats->rms_error / pair.stats->expected_rms);
}

std::string Types(const WeightPair& pair) {
  if (pair.reference_name.empty()) return std::string(Name(pair.subject_type));
  if (pair.subject_name.empty() || pair.reference_type == pair.subject_type)
    return std::string(Name(pair.reference_type));
  return fmt::format("{} > {}", Name(pair.reference_type), Name(pair.subject_type));
}

}  // namespace

Json WeightsToJson(const WeightsResult& result) {
  Json out = {{"schema", "paritrace/weights/1"}, {"verdict", Name(result.verdict)}};
  if (!result.reason.empty()) out["reason"] = result.reason;
  out["reference"] = SideToJson(result.reference);
  out["subject"] = SideToJson(result.subject);
  Json tensors = Json::array();
  for (const WeightPair& pair : result.pairs) {
    Json tensor = {{"weight", pair.key}};
    tensor["reference"] = pair.reference_name.empty() ? Json(nullptr) : Json(pair.reference_name);
    tensor["subject"] = pair.subject_name.empty() ? Json(nullptr) : Json(pair.subject_name);
    tensor["shape"] = pair.shape;
    if (!pair.reference_name.empty()) tensor["dtype_reference"] = Name(pair.reference_type);
    if (!pair.subject_name.empty()) tensor["dtype_subject"] = Name(pair.subject_type);
    tensor["status"] = Name(pair.status);
    if (pair.stats) tensor.update(StatsToJson(*pair.stats, pair.shape));
    if (pair.reordered) tensor["reordered"] = true;
    if (pair.plus_one) tensor["plus_one"] = true;
    tensor["relation"] = pair.relation ? *pair.relation : Json(nullptr);
    tensor["cause"] = pair.cause ? CauseToJson(*pair.cause) : Json(nullptr);
    tensors.push_back(std::move(tensor));
  }
  out["tensors"] = std::move(tensors);
  Json summary = Json::array();
  for (const Group& group : Groups(result)) {
    summary.push_back({{"cause", group.id}, {"weights", group.keys}, {"statement", group.statement}});
  }
  out["summary"] = std::move(summary);
  Json cleared = Json::array();
  for (const auto& [what, evidence] : result.cleared) cleared.push_back({{"what", what}, {"evidence", evidence}});
  out["cleared"] = std::move(cleared);
  out["remarks"] = result.remarks;
  return out;
}

Document WeightsToDocument(const WeightsResult& result, bool all) {
  Document document{.title = "paritrace weights", .sentence = Sentence(result)};
  document.tone = result.verdict == Verdict::kDiverged       ? Tone::kBad
                  : result.verdict == Verdict::kIncomparable ? Tone::kOdd
                                                             : Tone::kGood;
  for (const auto& [name, source] :
       {std::pair("reference", &result.reference), std::pair("subject", &result.subject)}) {
    document.facts.emplace_back(
        name, fmt::format("{} ({}{}{}, {} tensors)", source->path, source->format,
                          source->architecture.empty() ? "" : ", ", source->architecture, source->weights.size()));
  }
  Document::Section wrong{.heading = "other weights", .columns = {{"weight", true}, {"cause", true}, {"what", true}}};
  for (const WeightPair& pair : result.pairs) {
    if (pair.cause) wrong.rows.push_back({pair.key, pair.cause->id, pair.cause->statement});
  }
  if (!wrong.rows.empty()) document.sections.push_back(std::move(wrong));
  Document::Section section{.heading = all ? "all weights" : "worst of each type",
                            .columns = {{"weight", true},
                                        {"types", true},
                                        {"status", true},
                                        {"rms", false},
                                        {"error", false},
                                        {"of rounding", false}}};
  // Without --all the largest error of each pair of types stands for the rest.
  std::map<std::pair<DType, DType>, const WeightPair*> worst;
  for (const WeightPair& pair : result.pairs) {
    if (!pair.stats || pair.cause) continue;
    const WeightPair*& most = worst[{pair.reference_type, pair.subject_type}];
    const auto ratio = [](const WeightPair& p) {
      return p.stats->expected_rms > 0 ? p.stats->rms_error / p.stats->expected_rms : 0;
    };
    if (most == nullptr || ratio(pair) > ratio(*most)) most = &pair;
  }
  for (const WeightPair& pair : result.pairs) {
    const bool shown = all || (worst.contains({pair.reference_type, pair.subject_type}) &&
                               worst[{pair.reference_type, pair.subject_type}] == &pair);
    if (!shown) continue;
    section.rows.push_back({pair.key, Types(pair), std::string(Name(pair.status)),
                            pair.stats ? ShortNumber(pair.stats->rms_subject) : "",
                            pair.stats ? ShortNumber(pair.stats->rms_error) : "", Ratio(pair)});
  }
  if (!section.rows.empty()) document.sections.push_back(std::move(section));
  for (const auto& [what, evidence] : result.cleared)
    document.remarks.push_back(fmt::format("cleared: {}: {}", what, evidence));
  document.remarks.insert(document.remarks.end(), result.remarks.begin(), result.remarks.end());
  return document;
}

std::vector<Check> WeightsToChecks(const WeightsResult& result) {
  if (result.verdict == Verdict::kIncomparable) return {{"weights", Check::Outcome::kError, result.reason}};
  std::vector<Check> checks;
  for (const WeightPair& pair : result.pairs) {
    const Check::Outcome outcome = pair.cause   ? Check::Outcome::kFailed
                                   : pair.stats ? Check::Outcome::kPassed
                                                : Check::Outcome::kSkipped;
    checks.push_back(
        {pair.key, outcome, pair.cause ? fmt::format("{}: {}", pair.cause->id, pair.cause->statement) : ""});
  }
  return checks;
}

}  // namespace paritrace
