#include "report/diff_detail.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "report/diff_words.h"
#include "report/terminal.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;
constexpr std::size_t kWorst = 8;

std::vector<std::size_t> ByError(const DetailStats& stats) {
  std::vector<std::size_t> order(stats.channel_error.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return stats.channel_error[a] > stats.channel_error[b]; });
  return order;
}

double TotalError(const DetailStats& stats) {
  return std::accumulate(stats.channel_error.begin(), stats.channel_error.end(), 0.0);
}

Json FiniteOrNull(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

}  // namespace

std::vector<ChannelShare> WorstChannels(const DetailStats& stats, std::size_t most) {
  std::vector<ChannelShare> worst;
  const double total = TotalError(stats);
  if (!(total > 0)) return worst;
  for (const std::size_t channel : ByError(stats)) {
    if (worst.size() == most || !(stats.channel_error[channel] > 0)) break;
    worst.push_back({static_cast<std::int64_t>(channel), stats.channel_error[channel] / total,
                     stats.channel_error[channel] / stats.channel_energy[channel]});
  }
  return worst;
}

std::int64_t ChannelsWithHalfTheError(const DetailStats& stats) {
  const double total = TotalError(stats);
  if (!(total > 0)) return 0;
  double sum = 0;
  std::int64_t count = 0;
  for (const std::size_t channel : ByError(stats)) {
    sum += stats.channel_error[channel];
    ++count;
    if (2 * sum >= total) break;
  }
  return count;
}

Json DetailToJson(const DetailStats& stats) {
  const auto relative = [&](double q) { return FiniteOrNull(stats.RelativeErrorQuantile(q)); };
  const auto ulp = [&](double q) { return FiniteOrNull(stats.UlpQuantile(q)); };
  Json out = Json::object();
  out["relative_error"] = {
      {"p50", relative(0.5)}, {"p90", relative(0.9)}, {"p99", relative(0.99)}, {"max", relative(1)}};
  out["ulp"] = {{"p50", ulp(0.5)}, {"p90", ulp(0.9)}, {"p99", ulp(0.99)}, {"max", FiniteOrNull(stats.MaxUlp())}};
  out["ulp_digits"] = stats.unit.digits;
  out["sign_flips"] = stats.exponents.sign_flips;
  out["counted"] = stats.Counted();
  out["skipped"] = stats.skipped;
  Json worst = Json::array();
  for (const ChannelShare& channel : WorstChannels(stats, kWorst)) {
    worst.push_back({{"channel", channel.channel}, {"share", channel.share}, {"nmse", FiniteOrNull(channel.nmse)}});
  }
  out["channels"] = {{"count", stats.channel_error.size()},
                     {"with_half_the_error", ChannelsWithHalfTheError(stats)},
                     {"worst", std::move(worst)}};
  return out;
}

std::string DetailTable(const DiffResult& diff, std::size_t width, bool colour) {
  Table table;
  table.AddColumn("site", Table::Align::kLeft);
  for (const char* column : {"rel p50 <", "p99 <", "max ULP", "signs", "worst channel"})
    table.AddColumn(column, Table::Align::kRight);
  bool any = false;
  int step = 0;
  for (const SiteDiff& site : diff.sites) {
    if (!site.detail || site.status == SiteStatus::kIdentical) continue;
    any = true;
    if (site.step != step) table.AddNote(fmt::format("step {}", site.step), Style::kBold);
    step = site.step;
    const DetailStats& stats = *site.detail;
    const auto worst = WorstChannels(stats, 1);
    const std::vector<std::string> texts = {
        Printable(site.site),
        ShortNumber(stats.RelativeErrorQuantile(0.5)),
        ShortNumber(stats.RelativeErrorQuantile(0.99)),
        ShortNumber(stats.MaxUlp()),
        fmt::format("{}", stats.exponents.sign_flips),
        worst.empty() ? "-" : fmt::format("{} ({:.0f} %)", worst.front().channel, 100 * worst.front().share)};
    std::vector<Table::Cell> cells;
    for (const std::string& text : texts) cells.push_back({text, Style::kPlain});
    table.AddRow(std::move(cells));
  }
  if (!any) return "";
  return Wrap(
             "All statistics of the sites that differ. Quantiles are bounds within a factor of four; ULP of the "
             "coarser "
             "type; the worst channel with its share of the error.",
             width) +
         "\n" + table.Render(width, colour);
}

}  // namespace paritrace
