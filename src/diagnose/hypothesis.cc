#include "diagnose/hypothesis.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include <fmt/format.h>

#include "diagnose/site_stats.h"

namespace paritrace {
void ForEachWithin(const Graph& graph, const Node& node, const Value& value, const Scope& scope,
                   const std::function<void(std::size_t)>& visit) {
  const bool scores = IsScoreShaped(node);
  const std::int64_t cols = value.cols(), tokens = scores ? value.shape[1] : value.rows(),
                     width = scores ? 0 : HeadWidth(graph, node);
  const auto within = [](const std::vector<std::int64_t>& some, std::int64_t x) {
    return some.empty() || std::ranges::binary_search(some, x);
  };
  for (std::int64_t r = 0; r < value.rows(); ++r) {
    if (!within(scope.tokens, scores ? r % tokens : r)) continue;
    for (std::int64_t c = 0; c < cols; ++c) {
      const std::int64_t head = scores ? r / tokens : width > 0 ? c / width : 0;
      if (within(scope.heads, head) && (scores || within(scope.channels, c)))
        visit(static_cast<std::size_t>(r * cols + c));
    }
  }
}

SearchSite::SearchSite(const Replay& replay, NodeId target, Scope scope, Edit base, Twins twins)
    : replay_(replay), target_(target), base_(std::move(base)), twins_(std::move(twins)) {
  for (const NodeId id : twins_.leaders.empty() ? replay.Segment(target) : twins_.leaders) {
    const auto edited = base_.find(id);
    segment_.push_back(edited == base_.end() ? replay.graph().nodes[static_cast<std::size_t>(id)] : edited->second);
  }
  const RecordedSite& recorded = replay.recording().At(target);
  const Node& node = replay.graph().nodes[static_cast<std::size_t>(target)];
  const std::int64_t cols = recorded.value.cols(), tokens = static_cast<std::int64_t>(recorded.token_known.size());
  ForEachWithin(replay.graph(), node, recorded.value, scope, [&](std::size_t i) {
    const std::int64_t r = static_cast<std::int64_t>(i) / cols;
    if (recorded.token_known[static_cast<std::size_t>(IsScoreShaped(node) ? r % tokens : r)]) counted_.push_back(i);
  });
}

double SearchSite::Residual(const Edit& edit, Replay::Pass pass) const {
  const Value replayed = replay_.Evaluate(target_, pass, edit);
  double error = 0, signal = 0;
  std::int64_t broken = 0, count = 0;
  const Value& recorded = replay_.recording().At(target_).value;
  if (replayed.shape != recorded.shape) return std::numeric_limits<double>::infinity();
  for (const std::size_t i : counted_) {
    const double x = recorded.data[i], f = replayed.data[i];
    ++count;
    if (std::isfinite(x) && std::isfinite(f)) {
      error += (x - f) * (x - f);
      signal += x * x;
    } else if (!(x == f || (std::isnan(x) && std::isnan(f)))) {  // masked on one side only, or NaN
      ++broken;
    }
  }
  if (signal == 0) signal = 1;
  // Each broken value counts like a value wrong by ten times its size.
  return std::sqrt(error / signal +
                   100.0 * static_cast<double>(broken) / static_cast<double>(std::max<std::int64_t>(count, 1)));
}

double SearchSite::BestFactor(const Edit& edit) const {
  const Value replayed = replay_.Evaluate(target_, Replay::Pass::kExact, edit);
  double cross = 0, square = 0;
  const Value& recorded = replay_.recording().At(target_).value;
  if (replayed.shape != recorded.shape) return 1;
  for (const std::size_t i : counted_) {
    const double x = recorded.data[i], f = replayed.data[i];
    if (!std::isfinite(x) || !std::isfinite(f)) continue;
    cross += x * f;
    square += f * f;
  }
  return square == 0 ? 1 : cross / square;
}

Edit SearchSite::With(const Node& node) const { return With(std::vector<Node>{node}); }

Edit SearchSite::With(const std::vector<Node>& nodes) const {
  Edit edit = base_;
  for (const Node& node : nodes) {
    edit[node.id] = node;
    const auto twins = twins_.of.find(node.id);
    if (twins == twins_.of.end()) continue;
    for (const NodeId twin : twins->second) {
      if (std::optional<Node> same = SameChange(graph(), node, twin)) edit[twin] = std::move(*same);
    }
  }
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

Hypothesis QuantisedWeights(const Weight& weight, DType type, Edit edit) {
  return {.cause = "precision",
          .edit = std::move(edit),
          .expected = fmt::format("weights in {}", Name(weight.tensor.dtype)),
          .found = fmt::format("weights in {}", Name(type)),
          .statement = fmt::format(
              "the weights are those of MODEL after quantisation to {}: a difference of weights, not of execution",
              Name(type)),
          .fix = "give the subject's own file as --model to judge its execution alone"};
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
