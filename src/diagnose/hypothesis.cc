#include "diagnose/hypothesis.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include <fmt/format.h>

namespace paritrace {
namespace {

// Calls visit(recorded, replayed) for every recorded value in the rows that count.
template <typename Visit>
void ForEachValue(const SearchSite& site, const Value& replayed, Visit visit) {
  const RecordedSite& recorded = site.replay().recording().At(site.target().id);
  const bool scores = IsScoreShaped(site.target());
  const auto tokens = static_cast<std::int64_t>(recorded.token_known.size());
  std::vector<bool> counts(static_cast<std::size_t>(tokens), site.tokens().empty());
  for (const std::int64_t t : site.tokens()) counts[static_cast<std::size_t>(t)] = true;
  for (std::int64_t r = 0; r < recorded.value.rows(); ++r) {
    const auto t = static_cast<std::size_t>(scores ? r % tokens : r);
    if (!counts[t] || !recorded.token_known[t]) continue;
    const auto row = recorded.value.row(r);
    const auto other = replayed.row(r);
    for (std::size_t c = 0; c < row.size(); ++c) visit(row[c], other[c]);
  }
}

}  // namespace

SearchSite::SearchSite(const Replay& replay, NodeId target, std::vector<std::int64_t> tokens, Edit base)
    : replay_(replay), target_(target), tokens_(std::move(tokens)), base_(std::move(base)) {
  for (const NodeId id : replay.Segment(target)) {
    const auto edited = base_.find(id);
    segment_.push_back(edited == base_.end() ? replay.graph().nodes[static_cast<std::size_t>(id)] : edited->second);
  }
}

double SearchSite::Residual(const Edit& edit) const {
  const Value replayed = replay_.Evaluate(target_, Replay::Pass::kExact, edit);
  double error = 0, signal = 0;
  std::int64_t broken = 0, count = 0;
  ForEachValue(*this, replayed, [&](double x, double f) {
    ++count;
    if (std::isfinite(x) && std::isfinite(f)) {
      error += (x - f) * (x - f);
      signal += x * x;
    } else if (!(x == f)) {  // masked on one side only, or NaN
      ++broken;
    }
  });
  if (signal == 0) signal = 1;
  // Each broken value counts like a value wrong by ten times its size.
  return std::sqrt(error / signal + 100.0 * static_cast<double>(broken) / static_cast<double>(std::max<std::int64_t>(count, 1)));
}

double SearchSite::BestFactor(const Edit& edit) const {
  const Value replayed = replay_.Evaluate(target_, Replay::Pass::kExact, edit);
  double cross = 0, square = 0;
  ForEachValue(*this, replayed, [&](double x, double f) {
    if (!std::isfinite(x) || !std::isfinite(f)) return;
    cross += x * f;
    square += f * f;
  });
  return square == 0 ? 1 : cross / square;
}

Edit SearchSite::With(const Node& node) const {
  Edit edit = base_;
  edit[node.id] = node;
  return edit;
}

Edit SearchSite::With(const std::vector<Node>& nodes) const {
  Edit edit = base_;
  for (const Node& node : nodes) edit[node.id] = node;
  return edit;
}

double SearchSite::FitLog(double low, double high, int steps, const std::function<Edit(double)>& edit) const {
  const auto cost = [&](double at) { return Residual(edit(std::exp(at))); };
  const double from = std::log(low), width = (std::log(high) - from) / steps;
  double best = from, best_cost = cost(from);
  for (int i = 1; i <= steps; ++i) {
    const double here = cost(from + i * width);
    if (here < best_cost) {
      best_cost = here;
      best = from + i * width;
    }
  }
  constexpr double kGolden = 0.6180339887498949;
  double a = best - width, b = best + width;
  double c = b - kGolden * (b - a), d = a + kGolden * (b - a), cost_c = cost(c), cost_d = cost(d);
  for (int i = 0; i < 40 && b - a > 1e-12; ++i) {
    if (cost_c < cost_d) {
      b = d;
      d = c;
      cost_d = cost_c;
      c = b - kGolden * (b - a);
      cost_c = cost(c);
    } else {
      a = c;
      c = d;
      cost_c = cost_d;
      d = a + kGolden * (b - a);
      cost_d = cost(d);
    }
  }
  return std::exp((a + b) / 2);
}

std::vector<double> NiceNumbers(double value) {
  std::vector<double> numbers;
  if (!std::isfinite(value) || value == 0) return numbers;
  for (const int digits : {1, 2, 3, 5}) {
    const double nice = std::strtod(fmt::format("{:.{}e}", value, digits - 1).c_str(), nullptr);
    if (std::ranges::find(numbers, nice) == numbers.end()) numbers.push_back(nice);
  }
  numbers.push_back(value);
  return numbers;
}

}  // namespace paritrace
