#include "report/growth_report.h"

#include <cmath>

#include <fmt/format.h>

#include "report/diff_json.h"
#include "report/diff_words.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

std::string Describe(const Trend& trend, std::string_view unit) {
  if (trend.points.empty()) {
    return trend.exact > 0 ? fmt::format("there is no error over {}s at all", unit)
                           : fmt::format("nothing was recorded to follow over {}s", unit);
  }
  if (!trend.enough) {
    return fmt::format("over {} {}{} nothing can be said (5 are the fewest)", trend.points.size(), unit,
                       trend.points.size() == 1 ? "" : "s");
  }
  if (!trend.IsTrend()) return fmt::format("over {}s there is no trend (p = {:.2g})", unit, trend.p_value);
  const double factor = std::pow(10, std::fabs(trend.slope));
  return fmt::format("the error {} by a factor of {:.3g} a {} (p = {:.2g})", trend.slope > 0 ? "grows" : "shrinks",
                     factor, unit, trend.p_value);
}

std::string Sentence(const GrowthResult& result) {
  if (result.diff.verdict == Verdict::kIncomparable) return fmt::format("Nothing to compare: {}.", result.diff.reason);
  std::string text = Describe(result.by_layer, "layer") + "; " + Describe(result.by_position, "position") + ".";
  text[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(text[0])));
  return text;
}

Json TrendToJson(const Trend& trend, const char* at) {
  Json points = Json::array();
  for (const TrendPoint& point : trend.points) points.push_back({{at, point.at}, {"error", point.error}});
  return {{"site", trend.site},
          {"points", std::move(points)},
          {"exact", trend.exact},
          {"slope_decades", trend.slope},
          {"factor", std::pow(10, trend.slope)},
          {"p_value", trend.p_value},
          {"enough", trend.enough},
          {"trend", trend.IsTrend()}};
}

void AddSection(Document& document, const Trend& trend, std::string_view at, std::size_t most_rows) {
  if (trend.points.empty()) return;
  Document::Section section;
  section.heading = fmt::format("by {}, at {}", at, trend.site);
  section.columns = {{std::string(at), false}, {"error", false}, {"", true}};
  double least = INFINITY, most = 0;
  for (const TrendPoint& point : trend.points) {
    least = std::min(least, std::log10(point.error));
    most = std::max(most, point.error);
  }
  const double range = std::max(std::log10(most) - least, 1e-9);
  const std::size_t n = trend.points.size();
  const std::size_t shown = most_rows == 0 ? n : std::min(n, most_rows);
  for (std::size_t i = 0; i < shown; ++i) {
    const TrendPoint& point = trend.points[shown == 1 ? 0 : i * (n - 1) / (shown - 1)];
    constexpr double kBar = 40;
    std::string bar;
    for (int j = 0; j <= static_cast<int>(kBar * (std::log10(point.error) - least) / range); ++j) bar += "▪";
    section.rows.push_back({fmt::format("{}", point.at), ShortNumber(point.error), bar});
  }
  if (shown < n) document.remarks.push_back(fmt::format("{} of {} {}s shown; --all shows every one.", shown, n, at));
  document.sections.push_back(std::move(section));
}

}  // namespace

Json GrowthToJson(const GrowthResult& result) {
  Json out = {{"schema", "paritrace/growth/1"}, {"verdict", Name(result.diff.verdict)}};
  out["reference"] = HeaderToJson(result.diff.reference, result.diff.reference_path);
  out["subject"] = HeaderToJson(result.diff.subject, result.diff.subject_path);
  out["by_layer"] = TrendToJson(result.by_layer, "layer");
  out["by_position"] = TrendToJson(result.by_position, "position");
  if (!result.diff.reason.empty()) out["reason"] = result.diff.reason;
  return out;
}

Document GrowthToDocument(const GrowthResult& result, std::size_t most_rows) {
  Document document;
  document.title = "paritrace growth";
  document.tone = result.diff.verdict == Verdict::kDiverged       ? Tone::kBad
                  : result.diff.verdict == Verdict::kIncomparable ? Tone::kOdd
                                                                  : Tone::kGood;
  document.sentence = Sentence(result);
  document.facts = {
      {"reference", DescribeSide(result.diff.reference, result.diff.reference_rounding, result.diff.reference_path)},
      {"subject", DescribeSide(result.diff.subject, result.diff.subject_rounding, result.diff.subject_path)},
      {"diff", VerdictSentence(result.diff)}};
  AddSection(document, result.by_layer, "layer", most_rows);
  AddSection(document, result.by_position, "position", most_rows);
  if (!result.by_layer.points.empty() || !result.by_position.points.empty()) {
    document.remarks.emplace_back(
        "error: rms(difference) / rms(reference); bars are logarithmic. p: the chance that the same errors, shuffled, "
        "give as steep a line.");
  }
  return document;
}

std::vector<Check> GrowthToChecks(const GrowthResult& result) {
  if (result.diff.verdict == Verdict::kIncomparable) return {{"growth", Check::Outcome::kError, result.diff.reason}};
  std::vector<Check> checks;
  for (const auto& [trend, unit] : {std::pair(&result.by_layer, "layer"), std::pair(&result.by_position, "position")}) {
    const bool failed = result.diff.verdict == Verdict::kDiverged && trend->IsTrend() && trend->slope > 0;
    const Check::Outcome outcome = failed          ? Check::Outcome::kFailed
                                   : trend->enough ? Check::Outcome::kPassed
                                                   : Check::Outcome::kSkipped;
    checks.push_back(
        {fmt::format("growth by {}", unit), outcome, outcome == Check::Outcome::kPassed ? "" : Describe(*trend, unit)});
  }
  return checks;
}

}  // namespace paritrace
