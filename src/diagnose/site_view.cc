#include "diagnose/site_view.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace paritrace {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

double Rms(const ErrorSums& sums, double total) {
  const std::int64_t measured = sums.count - sums.broken;
  if (sums.count == 0) return kNan;
  return measured <= 0 ? 0.0 : std::sqrt(total / static_cast<double>(measured));
}

// NaN is "not known" here and gives way to anything that is.
void KeepWorst(double value, float& kept) {
  if (std::isnan(kept) || value > static_cast<double>(kept)) kept = static_cast<float>(value);
}

void AddTokens(const SiteStats& stats, std::int64_t most, SiteView& view) {
  const auto tokens = static_cast<std::int64_t>(stats.by_token.size());
  view.token_bin = std::max<std::int64_t>(1, (tokens + most - 1) / most);
  const auto bins = static_cast<std::size_t>((tokens + view.token_bin - 1) / view.token_bin);
  view.token_error.assign(bins, static_cast<float>(kNan));
  view.token_floor.assign(bins, static_cast<float>(kNan));
  for (std::int64_t t = 0; t < tokens; ++t) {
    const ErrorSums& sums = stats.by_token[static_cast<std::size_t>(t)];
    const auto bin = static_cast<std::size_t>(t / view.token_bin);
    KeepWorst(sums.broken > 0 ? kInfinity : Rms(sums, sums.error), view.token_error[bin]);
    KeepWorst(Rms(sums, sums.floor()), view.token_floor[bin]);
  }
}

// Masked on both sides, or a replay that is not finite itself: no error is known there, as in site_stats.cc.
bool IsJudged(bool scores, double recorded, double expected) {
  if (std::isnan(expected) || (std::isinf(expected) && !scores)) return false;
  return !(scores && ((std::isinf(expected) && recorded == expected) || (expected == 0 && recorded == 0)));
}

double ErrorOf(double recorded, double expected) {
  return std::isfinite(recorded) && std::isfinite(expected) ? std::abs(recorded - expected) : kInfinity;
}

void AddHeads(const std::vector<ErrorSums>& cells, std::int64_t tokens, std::int64_t most, SiteView& view) {
  if (tokens == 0 || cells.empty() || most == 0) return;
  view.heads = static_cast<std::int64_t>(cells.size()) / tokens;
  const std::int64_t room = std::max<std::int64_t>(1, most / view.heads);
  view.head_bin = (tokens + room - 1) / room;
  const std::int64_t bins = (tokens + view.head_bin - 1) / view.head_bin;
  view.head_ratio.assign(static_cast<std::size_t>(view.heads * bins), static_cast<float>(kNan));
  for (std::int64_t head = 0; head < view.heads; ++head) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      const ErrorSums& sums = cells[static_cast<std::size_t>(head * tokens + t)];
      KeepWorst(sums.count == 0 ? kNan : sums.ratio(),
                view.head_ratio[static_cast<std::size_t>(head * bins + t / view.head_bin)]);
    }
  }
}

// A quarter of the samples are the largest errors, so that a single wrong value is seen; the rest show what is usual.
void AddSamples(const RecordedSite& recorded, const Value& expected, bool scores, std::int64_t most, SiteView& view) {
  const auto count = static_cast<std::int64_t>(expected.data.size()), cols = expected.cols();
  const auto tokens = static_cast<std::int64_t>(recorded.token_known.size());
  const auto is_used = [&](std::int64_t i) {
    const std::int64_t row = i / cols;
    return recorded.token_known[static_cast<std::size_t>(scores ? row % tokens : row)] &&
           IsJudged(scores, recorded.value.data[static_cast<std::size_t>(i)],
                    expected.data[static_cast<std::size_t>(i)]);
  };
  const auto error = [&](std::int64_t i) {
    return ErrorOf(recorded.value.data[static_cast<std::size_t>(i)], expected.data[static_cast<std::size_t>(i)]);
  };
  // The largest so far, the least of them on top; of equals the lower index stays.
  const auto is_larger = [&](std::int64_t a, std::int64_t b) {
    const double x = error(a), y = error(b);
    return x > y || (x == y && a < b);
  };
  const auto wanted = static_cast<std::size_t>(std::max<std::int64_t>(1, most / 4));
  std::vector<std::int64_t> worst;
  for (std::int64_t i = 0; i < count; ++i) {
    if (!is_used(i)) continue;
    ++view.values;
    if (worst.size() == wanted && !is_larger(i, worst.front())) continue;
    worst.push_back(i);
    std::ranges::push_heap(worst, is_larger);
    if (worst.size() > wanted) {
      std::ranges::pop_heap(worst, is_larger);
      worst.pop_back();
    }
  }
  std::ranges::sort(worst, is_larger);
  view.worst = static_cast<std::int64_t>(worst.size());
  const auto add = [&](std::int64_t i) {
    view.rows.push_back(static_cast<std::uint32_t>(i / cols));
    view.columns.push_back(static_cast<std::uint32_t>(i % cols));
    view.expected.push_back(static_cast<float>(expected.data[static_cast<std::size_t>(i)]));
    view.recorded.push_back(static_cast<float>(recorded.value.data[static_cast<std::size_t>(i)]));
  };
  for (const std::int64_t i : worst) add(i);
  std::ranges::sort(worst);
  const std::int64_t even = most - view.worst;
  for (std::int64_t k = 0; k < even && count > 0; ++k) {
    const auto i = static_cast<std::int64_t>((static_cast<double>(k) + 0.5) / static_cast<double>(even) *
                                             static_cast<double>(count));
    const bool again = k > 0 && i == static_cast<std::int64_t>((static_cast<double>(k) - 0.5) /
                                                               static_cast<double>(even) * static_cast<double>(count));
    if (!again && is_used(i) && !std::ranges::binary_search(worst, i)) add(i);
  }
}

void AddHistogram(const RecordedSite& recorded, const Value& expected, bool scores, SiteView& view) {
  constexpr std::size_t kBins = 48;
  double low = kInfinity, high = -kInfinity;
  for (const std::vector<double>* side : {&expected.data, &recorded.value.data}) {
    for (const double x : *side) {
      if (!std::isfinite(x)) continue;
      low = std::min(low, x);
      high = std::max(high, x);
    }
  }
  if (!(low < high)) return;
  view.low = low;
  view.high = high;
  const auto count = [&](const std::vector<double>& side, std::vector<std::int64_t>& counts) {
    counts.assign(kBins, 0);
    for (std::size_t i = 0; i < side.size(); ++i) {
      if (!std::isfinite(side[i])) {
        view.outside += scores ? 0 : 1;
        continue;
      }
      const double at = (side[i] - low) / (high - low) * static_cast<double>(kBins);
      ++counts[std::min(kBins - 1, static_cast<std::size_t>(at))];
    }
  };
  count(expected.data, view.expected_counts);
  count(recorded.value.data, view.recorded_counts);
}

}  // namespace

ViewLimits LimitsFor(std::size_t sites) {
  // A sample takes four words, a token two, a cell one, and a word six letters; 700 letters go for the rest.
  constexpr std::int64_t kLetters = 3'000'000;
  const std::int64_t words = (kLetters / static_cast<std::int64_t>(std::max<std::size_t>(sites, 1)) - 700) / 6;
  const auto share = [&](std::int64_t most, std::int64_t least, std::int64_t divisor) {
    return std::clamp(words / divisor, least, most);
  };
  return {
      .samples = share(256, 4, 8), .tokens = share(256, 8, 8), .cells = share(2048, 0, 4), .histogram = words > 128};
}

SiteView MakeSiteView(const Node& node, const RecordedSite& recorded, const Value& expected, const SiteStats& stats,
                      const std::vector<ErrorSums>& cells, const ViewLimits& limits) {
  SiteView view{.site = node.site};
  const bool scores = IsScoreShaped(node);
  if (expected.data.size() != recorded.value.data.size() || expected.cols() == 0) return view;
  AddTokens(stats, limits.tokens, view);
  AddHeads(cells, static_cast<std::int64_t>(recorded.token_known.size()), limits.cells, view);
  AddSamples(recorded, expected, scores, limits.samples, view);
  if (limits.histogram) AddHistogram(recorded, expected, scores, view);
  return view;
}

}  // namespace paritrace
