#include "report/logits_report.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "report/diff_json.h"
#include "report/diff_words.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

std::string Percent(double share) { return fmt::format("{:.4g} %", 100 * share); }

std::string Where(const LogitsPosition& position) {
  return position.step == 0 ? fmt::format("position {}", position.position)
                            : fmt::format("position {} (step {})", position.position, position.step);
}

std::string Sentence(const LogitsResult& result, const Vocabulary& vocabulary) {
  if (result.verdict == Verdict::kIncomparable) return fmt::format("Nothing to compare: {}.", result.reason);
  std::string text;
  if (result.verdict == Verdict::kIdentical) {
    text = fmt::format("Identical: the logits at {} positions are equal.", result.positions.size());
  } else if (result.first_diverged) {
    text = fmt::format("Diverged from {} on: rounding does not explain the logits there.",
                       Where(result.positions[*result.first_diverged]));
  } else if (result.verdict == Verdict::kDiverged) {
    text = "Diverged: a single logit differs by more than rounding explains.";
  } else {
    text = fmt::format("Within noise: rounding explains what differs at all {} positions.", result.positions.size());
  }
  if (!result.first_greedy_difference) return text;
  const LogitsPosition& flip = result.positions[*result.first_greedy_difference];
  text += flip.diverged ? " Greedy" : " But greedy";
  text += fmt::format(" decoding differs first at {}: {} in the reference, {} in the subject", Where(flip),
                      vocabulary.Name(flip.top_reference), vocabulary.Name(flip.top_subject));
  if (flip.benign_tie)
    text += fmt::format(", a benign tie: {} apart in the reference", ShortNumber(flip.margin_to_flip));
  return text + ".";
}

void PutNumber(Json& object, const char* key, double value, bool finite) {
  if (finite && std::isfinite(value)) {
    object[key] = value;
  } else {
    object[key] = nullptr;
    object["nonfinite"] = true;
  }
}

Json TokenToJson(std::int64_t id, const Vocabulary& vocabulary) {
  Json token = {{"id", id}};
  if (!vocabulary.Text(id).empty()) token["text"] = vocabulary.Text(id);
  return token;
}

Json RankedToJson(const std::vector<RankedLogit>& best, const Vocabulary& vocabulary) {
  Json out = Json::array();
  for (const RankedLogit& ranked : best) {
    Json token = TokenToJson(ranked.id, vocabulary);
    token["logit"] = ranked.logit;
    token["probability"] = ranked.probability;
    out.push_back(std::move(token));
  }
  return out;
}

Json PositionToJson(const LogitsPosition& position, const Vocabulary& vocabulary) {
  Json out = {{"step", position.step}, {"position", position.position}};
  const auto put = [&](const char* key, double value) { PutNumber(out, key, value, position.finite); };
  put("cosine", position.cosine);
  put("l2", position.l2);
  put("max_abs", position.max_abs);
  put("kl_reference_subject", position.kl_forward);
  put("kl_subject_reference", position.kl_backward);
  out["top_reference"] = position.finite ? TokenToJson(position.top_reference, vocabulary) : Json(nullptr);
  out["top_subject"] = position.finite ? TokenToJson(position.top_subject, vocabulary) : Json(nullptr);
  put("top_k_shared", position.top_k_shared);
  out["rank_in_subject"] = position.finite ? Json(position.rank_in_subject) : Json(nullptr);
  put("margin_reference", position.margin_reference);
  put("margin_subject", position.margin_subject);
  put("margin_to_flip", position.margin_to_flip);
  put("noise", position.noise);
  out["status"] = position.diverged ? "diverged" : position.max_abs == 0 ? "identical" : "within_noise";
  out["greedy_differs"] = position.greedy_differs;
  out["benign_tie"] = position.benign_tie;
  out["best_reference"] = RankedToJson(position.best_reference, vocabulary);
  out["best_subject"] = RankedToJson(position.best_subject, vocabulary);
  return out;
}

Json PlaceOrNull(const LogitsResult& result, const std::optional<std::size_t>& index) {
  if (!index) return nullptr;
  const LogitsPosition& position = result.positions[*index];
  return {{"step", position.step}, {"position", position.position}, {"benign_tie", position.benign_tie}};
}

}  // namespace

Json LogitsToJson(const LogitsResult& result, const Vocabulary& vocabulary) {
  Json out = {{"schema", "paritrace/logits/1"}, {"verdict", Name(result.verdict)}};
  out["reference"] = HeaderToJson(result.diff.reference, result.diff.reference_path);
  out["subject"] = HeaderToJson(result.diff.subject, result.diff.subject_path);
  out["first_divergence"] = PlaceOrNull(result, result.first_diverged);
  out["first_greedy_difference"] = PlaceOrNull(result, result.first_greedy_difference);
  out["summary"] = {{"positions", result.positions.size()},
                    {"top1_agreement", result.TopAgreement()},
                    {"top_k", result.top_k},
                    {"top_k_agreement", result.TopKAgreement()},
                    {"mean_kl", result.MeanKl()}};
  Json positions = Json::array();
  for (const LogitsPosition& position : result.positions) positions.push_back(PositionToJson(position, vocabulary));
  out["positions"] = std::move(positions);
  if (result.diff.tokens)
    out["tokens"] = {{"cause", result.diff.tokens->cause}, {"statement", result.diff.tokens->statement}};
  if (!result.reason.empty()) out["reason"] = result.reason;
  return out;
}

Document LogitsToDocument(const LogitsResult& result, const Vocabulary& vocabulary, std::size_t most_rows) {
  Document document;
  document.title = "paritrace logits";
  document.tone = result.verdict == Verdict::kDiverged       ? Tone::kBad
                  : result.verdict == Verdict::kIncomparable ? Tone::kOdd
                                                             : Tone::kGood;
  document.sentence = Sentence(result, vocabulary);
  document.facts = {
      {"reference", DescribeSide(result.diff.reference, result.diff.reference_rounding, result.diff.reference_path)},
      {"subject", DescribeSide(result.diff.subject, result.diff.subject_rounding, result.diff.subject_path)}};
  if (result.positions.empty()) return document;
  document.facts.emplace_back("same winner", Percent(result.TopAgreement()));
  document.facts.emplace_back(fmt::format("same best {}", result.top_k), Percent(result.TopKAgreement()));
  document.facts.emplace_back("mean KL", ShortNumber(result.MeanKl()) + " nats");
  std::vector<std::size_t> shown(result.positions.size());
  for (std::size_t i = 0; i < shown.size(); ++i) shown[i] = i;
  const auto is_odd = [&](std::size_t i) { return result.positions[i].diverged || result.positions[i].greedy_differs; };
  if (most_rows > 0 && shown.size() > most_rows) {
    std::stable_partition(shown.begin(), shown.end(), is_odd);
    document.remarks.push_back(fmt::format("{} of {} positions shown, those that differ first; --all shows every one.",
                                           most_rows, shown.size()));
    shown.resize(most_rows);
    std::sort(shown.begin(), shown.end());
  }
  Document::Section section;
  section.columns = {{"pos", false},    {"cosine", false}, {"max abs", false}, {"KL", false},
                     {"margin", false}, {"rank", false},   {"winner", true}};
  for (const std::size_t i : shown) {
    const LogitsPosition& position = result.positions[i];
    if (position.diverged || (position.greedy_differs && !position.benign_tie))
      section.marked.push_back(section.rows.size());
    std::vector<std::string> row = {fmt::format("{}", position.position)};
    if (!position.finite) {
      row.insert(row.end(), {"nan", "nan", "nan", "-", "-", "not finite"});
    } else {
      const std::string winner = position.greedy_differs
                                     ? vocabulary.Name(position.top_reference) + " -> " +
                                           vocabulary.Name(position.top_subject) + (position.benign_tie ? " (tie)" : "")
                                     : vocabulary.Name(position.top_reference);
      row.insert(row.end(), {fmt::format("{:.6f}", position.cosine), ShortNumber(position.max_abs),
                             ShortNumber(position.kl_forward), ShortNumber(position.margin_reference),
                             fmt::format("{}", position.rank_in_subject), winner});
    }
    section.rows.push_back(std::move(row));
  }
  document.sections.push_back(std::move(section));
  return document;
}

std::vector<Check> LogitsToChecks(const LogitsResult& result) {
  std::vector<Check> checks;
  if (result.verdict == Verdict::kIncomparable) checks.push_back({"logits", Check::Outcome::kError, result.reason});
  for (const LogitsPosition& position : result.positions) {
    const bool failed = position.diverged || (position.greedy_differs && !position.benign_tie);
    checks.push_back({fmt::format("{}/logits[{}]", position.step, position.position),
                      failed ? Check::Outcome::kFailed : Check::Outcome::kPassed,
                      failed ? fmt::format("max abs {}, KL {}, winner {} in the reference, {} in the subject",
                                           ShortNumber(position.max_abs), ShortNumber(position.kl_forward),
                                           position.top_reference, position.top_subject)
                             : ""});
  }
  return checks;
}

}  // namespace paritrace
