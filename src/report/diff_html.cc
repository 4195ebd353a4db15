#include "report/diff_html.h"

#include <fmt/format.h>

#include "report/diff_words.h"
#include "report/markup.h"

namespace paritrace {
namespace {

constexpr std::string_view kHead = R"(<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>paritrace diff</title>
<style>
:root { color-scheme: light dark; --bad: #b3261e; --good: #1b6e3c; --odd: #8a6100; --line: #8884; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --good: #7bd89b; --odd: #e8c26a; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid var(--line); }
th { position: sticky; top: 0; background: Canvas; }
th.text, td.text { text-align: left; }
td.text code { overflow-wrap: anywhere; }
.bad { color: var(--bad); } .good { color: var(--good); } .odd { color: var(--odd); }
tr.first { outline: 2px solid var(--bad); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; } dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
</style>
</head>
<body>
)";

std::string_view ClassOf(SiteStatus status) {
  switch (status) {
    case SiteStatus::kIdentical:
    case SiteStatus::kWithinNoise: return "good";
    case SiteStatus::kDiverged:
    case SiteStatus::kShapeMismatch: return "bad";
    default: return "odd";
  }
}

std::string Row(const DiffResult& diff, std::size_t index) {
  const SiteDiff& site = diff.sites[index];
  const bool is_first = diff.first_divergence && diff.first_divergence->index == index;
  std::string figures = "<td>-</td><td>-</td><td>-</td><td>-</td>";
  if (site.compared) {
    const PairStats& stats = site.stats;
    const bool measured = stats.mismatches == 0;
    const auto figure = [&](const std::string& text) { return measured ? text : std::string("nonfinite"); };
    figures =
        fmt::format("<td>{}</td><td>{}</td><td>{}</td><td>{}</td>", figure(ShortNumber(stats.Nmse())),
                    ShortNumber(site.allowed * site.allowed), figure(site.estimate ? "-" : ShortNumber(stats.max_abs)),
                    figure(fmt::format("{:.6f}", stats.Cosine())));
  }
  return fmt::format(
      "<tr{}><td>{}</td><td class=\"text\"><code>{}</code></td><td class=\"text\">{}</td>{}<td class=\"text "
      "{}\">{}</td><td class=\"text\">{}</td></tr>\n",
      is_first ? " class=\"first\"" : "", site.step, EscapeMarkup(site.site), EscapeMarkup(ToString(site.shape)),
      figures, ClassOf(site.status), Words(site.status), EscapeMarkup(DescribeNote(site)));
}

}  // namespace

std::string DiffToPlainHtml(const DiffResult& diff) {
  const bool good = diff.verdict == Verdict::kIdentical || diff.verdict == Verdict::kWithinNoise;
  std::string out(kHead);
  out += fmt::format("<h1 class=\"{}\">{}</h1>\n",
                     good                                 ? "good"
                     : diff.verdict == Verdict::kDiverged ? "bad"
                                                          : "odd",
                     EscapeMarkup(VerdictSentence(diff)));
  out += fmt::format("<dl><dt>reference</dt><dd>{}</dd><dt>subject</dt><dd>{}</dd><dt>sites</dt><dd>{}</dd></dl>\n",
                     EscapeMarkup(DescribeSide(diff.reference, diff.reference_rounding, diff.reference_path)),
                     EscapeMarkup(DescribeSide(diff.subject, diff.subject_rounding, diff.subject_path)),
                     DescribeCounts(diff.Counts()));
  out +=
      "<table>\n<thead><tr><th>step</th><th class=\"text\">site</th><th "
      "class=\"text\">shape</th><th>nmse</th><th>allowed</th><th>max abs</th>"
      "<th>cosine</th><th class=\"text\">status</th><th class=\"text\">note</th></tr></thead>\n<tbody>\n";
  for (std::size_t i = 0; i < diff.sites.size(); ++i) out += Row(diff, i);
  return out + "</tbody>\n</table>\n</body>\n</html>\n";
}

}  // namespace paritrace
