#include "report/diagnosis_html.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "report/diagnosis_json.h"
#include "report/diagnosis_text.h"
#include "report/markup.h"
#include "report/site_names.h"

namespace paritrace {
namespace {

constexpr std::string_view kHead = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>paritrace: diagnosis</title>
<style>
:root{color-scheme:light dark;--line:#8884;--soft:#8881}
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:0 auto;padding:1.5rem}
h1{font-size:1.4rem;line-height:1.3}h2{font-size:1.1rem;margin-top:2rem}
.diverged{color:#c2410c}.within_noise,.identical{color:#0369a1}
article{border-left:4px solid #c2410c;padding:.2rem 1rem;margin:1rem 0;background:var(--soft)}
.map{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{border:1px solid var(--line);padding:.15rem .5rem;text-align:right;font-size:.85rem}
th:first-child,td:first-child{text-align:left}
.q0{background:#0369a118}.q1{background:#0369a130}.q2{background:#f59e0b55}.bad{background:#c2410ccc;color:#fff}
@media (prefers-color-scheme:dark){.diverged{color:#fb923c}.within_noise,.identical{color:#7dd3fc}}
</style></head><body>
)";

std::string RatioCell(const NoiseRow& row, bool defect) {
  if (!row.judged) return "<td>?</td>";
  const std::string text = std::isfinite(row.ratio) ? (row.ratio >= 100 ? fmt::format("{:.1e}", row.ratio)
                                                                        : fmt::format("{:.2f}", row.ratio))
                                                    : "inf";
  const char* shade = defect ? "bad" : row.ratio <= 1 ? "q0" : row.ratio <= 2 ? "q1" : "q2";
  return fmt::format("<td class=\"{}\" title=\"{}: {:.2f} % of the values explained to the bit\">{}</td>", shade,
                     EscapeMarkup(row.site), 100 * row.exact, text);
}

// Layers down, sites across, coloured by the ratio to the noise floor; the worst of all steps.
std::string ModelMap(const Diagnosis& diagnosis) {
  std::vector<std::string> roles;
  std::map<int, std::map<std::string, NoiseRow>> layers;
  for (const NoiseRow& row : diagnosis.noise) {
    int layer = -1;
    const std::string role = RoleOf(row.site, &layer);
    if (layer >= 0 && std::ranges::find(roles, role) == roles.end()) roles.push_back(role);
    NoiseRow& worst = layers[layer].try_emplace(role, row).first->second;
    if (row.judged && !(row.ratio <= worst.ratio)) worst = row;
  }
  const auto is_defect = [&](const std::string& site) {
    return std::ranges::any_of(diagnosis.defects,
                               [&](const Defect& defect) { return defect.site == site && defect.side == "subject"; });
  };
  std::string out = "<div class=\"map\"><table><tr><th>layer</th>";
  for (const std::string& role : roles) out += fmt::format("<th>{}</th>", EscapeMarkup(role));
  out += "</tr>\n";
  for (const auto& [layer, sites] : layers) {
    if (layer < 0) continue;
    out += fmt::format("<tr><td>{}</td>", layer);
    for (const std::string& role : roles) {
      const auto found = sites.find(role);
      out += found == sites.end() ? "<td></td>" : RatioCell(found->second, is_defect(found->second.site));
    }
    out += "</tr>\n";
  }
  out += "</table></div>\n";
  if (layers.contains(-1)) {
    out += "<p></p><table><tr>";
    for (const auto& [role, row] : layers[-1]) out += fmt::format("<th>{}</th>", EscapeMarkup(role));
    out += "</tr><tr>";
    for (const auto& [role, row] : layers[-1]) out += RatioCell(row, is_defect(row.site));
    out += "</tr></table>\n";
  }
  return out;
}

}  // namespace

std::string DiagnosisToPlainHtml(const Diagnosis& diagnosis) {
  std::string out(kHead);
  out += fmt::format("<h1 class=\"{}\">{}</h1>\n", diagnosis.verdict, EscapeMarkup(VerdictSentence(diagnosis)));
  for (const CauseGroup& group : GroupCauses(diagnosis)) {
    out += fmt::format(
        "<article><h2><code>{}</code>{}</h2><p>{}.</p><p><b>Where:</b> {}</p><p><b>Fix:</b> {}.</p></article>\n",
        EscapeMarkup(group.cause), group.side == "reference" ? " in the reference" : "", EscapeMarkup(group.statement),
        EscapeMarkup(DescribeSites(group.sites)), EscapeMarkup(group.fix));
  }
  for (const Equivalence& equivalence : diagnosis.equivalences) {
    out += fmt::format("<p>No effect: {} (<code>{}</code>)</p>\n", EscapeMarkup(equivalence.statement),
                       EscapeMarkup(equivalence.site));
  }
  out += fmt::format("<h2>Introduced error over the noise floor of {}</h2>\n", EscapeMarkup(diagnosis.arithmetic)) +
         ModelMap(diagnosis);
  if (!diagnosis.cleared.empty()) out += "<h2>Ruled out</h2><ul>\n";
  for (const Note& note : diagnosis.cleared)
    out += fmt::format("<li><b>{}</b>: {}</li>\n", EscapeMarkup(note.what), EscapeMarkup(note.evidence));
  if (!diagnosis.cleared.empty()) out += "</ul>\n";
  if (!diagnosis.unproven.empty()) out += "<h2>Not proven</h2><ul>\n";
  for (const Note& note : diagnosis.unproven)
    out += fmt::format("<li><b>{}</b>: {}</li>\n", EscapeMarkup(note.what), EscapeMarkup(note.evidence));
  if (!diagnosis.unproven.empty()) out += "</ul>\n";
  if (!diagnosis.counterfactual.empty()) out += fmt::format("<p>{}</p>\n", EscapeMarkup(diagnosis.counterfactual));
  for (const std::string& remark : diagnosis.remarks) out += fmt::format("<p>Note: {}.</p>\n", EscapeMarkup(remark));
  return out + "</body></html>\n";
}

}  // namespace paritrace
