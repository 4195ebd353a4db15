#include "report/diff_page.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "report/diff_html.h"
#include "report/diff_json.h"
#include "report/diff_markdown.h"
#include "report/diff_views.h"
#include "report/diff_words.h"
#include "report/page.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

// A page of ten thousand sites must still open at once: what each may take shrinks with their number.
std::int64_t Share(std::size_t sites, std::int64_t all, std::int64_t most, std::int64_t least) {
  return std::clamp(all / static_cast<std::int64_t>(std::max<std::size_t>(sites, 1)), least, most);
}

// Positions that share an entry are told by the worst of them; what cannot be measured is worse than any number.
void KeepWorst(double value, float& kept) {
  if (std::isnan(kept)) return;
  if (std::isnan(value) || value > static_cast<double>(kept)) kept = static_cast<float>(value);
}

Json PositionsToJson(const SiteDiff& site, std::int64_t most) {
  const auto count = static_cast<std::int64_t>(site.positions.size());
  const std::int64_t bin = std::max<std::int64_t>(1, (count + most - 1) / most);
  const auto bins = static_cast<std::size_t>((count + bin - 1) / bin);
  std::vector<float> nmse(bins, 0), max_abs(bins, 0);
  for (std::int64_t i = 0; i < count; ++i) {
    const PositionStats& position = site.positions[static_cast<std::size_t>(i)];
    const auto at = static_cast<std::size_t>(i / bin);
    const bool unmeasured = position.mismatches > 0;
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const bool estimated = site.estimate && static_cast<std::size_t>(i) < site.estimate->position_nmse.size();
    KeepWorst(unmeasured  ? nan
              : estimated ? site.estimate->position_nmse[static_cast<std::size_t>(i)].value
                          : position.Nmse(),
              nmse[at]);
    KeepWorst(unmeasured || site.estimate ? nan : position.max_abs, max_abs[at]);
  }
  return {{"bin", bin}, {"nmse", PackF32(nmse)}, {"max_abs", PackF32(max_abs)}};
}

}  // namespace

std::string DiffToHtml(const DiffResult& diff, const std::vector<std::string>& tokens) {
  if (PageTemplate().empty()) return DiffToPlainHtml(diff);
  const std::int64_t positions = Share(diff.sites.size(), 150'000, 512, 8);
  const DiffViewLimits limits = DiffViewLimitsFor(diff.sites.size());
  const HeadCounts heads = HeadsOf(diff);
  Json result = DiffToJson(diff), views = Json::object();
  for (std::size_t i = 0; i < diff.sites.size(); ++i) {
    const SiteDiff& site = diff.sites[i];
    Json& json = result["sites"][i];
    json.erase("per_position");
    if (!site.positions.empty()) json["positions"] = PositionsToJson(site, positions);
    if (Json view = DiffViewOf(site, heads, limits); !view.is_null())
      views[fmt::format("{}/{}", site.step, site.site)] = std::move(view);
  }
  const bool good = diff.verdict == Verdict::kIdentical || diff.verdict == Verdict::kWithinNoise;
  const Document document{
      .title = "paritrace diff",
      .tone = good                                 ? Tone::kGood
              : diff.verdict == Verdict::kDiverged ? Tone::kBad
                                                   : Tone::kOdd,
      .sentence = VerdictSentence(diff),
      .facts = {{"reference", DescribeSide(diff.reference, diff.reference_rounding, diff.reference_path)},
                {"subject", DescribeSide(diff.subject, diff.subject_rounding, diff.subject_path)}}};
  return FillPage(
      PageTemplate(), document, result,
      {.markdown = DiffToMarkdown(diff),
       .tokens = tokens,
       .views = {{"reference_label", "reference"}, {"subject_label", "subject"}, {"sites", std::move(views)}}});
}

}  // namespace paritrace
