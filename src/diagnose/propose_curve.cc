// A special function that follows another curve: known ones are tried, and where none fits, the curve itself is read off the
// recorded pairs of input and output, once they have proven that there is one.
#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include <fmt/format.h>

#include "diagnose/curves.h"
#include "diagnose/hypothesis.h"
#include "graph/kernel_fault.h"

namespace paritrace {
namespace {

// A curve is there if each second point of it foretells the others to this share of how far they are from the right one.
constexpr double kForetold = 0.1;
constexpr std::size_t kFewestPoints = 64;

struct Special {
  std::string name;  // of the right function
  Curve right;
  std::vector<KnownCurve> others;
};

// The special function inside an op; nullopt where it has none.
std::optional<Special> SpecialIn(const Node& node) {
  if (const auto* activation = std::get_if<ActivationOp>(&node.op)) {
    const Activation function = activation->function;
    return Special{std::string(Name(function)), [function](double x) { return TrueActivation(function, x); },
                   ActivationCurves(function)};
  }
  const auto tanh = [](double x) { return std::tanh(x); };
  if (const auto* scale = std::get_if<ScaleOp>(&node.op); scale != nullptr && scale->softcap > 0)
    return Special{"tanh", tanh, TanhCurves()};
  if (const auto* scores = std::get_if<ScoresOp>(&node.op); scores != nullptr && scores->softcap > 0)
    return Special{"tanh", tanh, TanhCurves()};
  if (std::holds_alternative<SoftmaxOp>(node.op))
    return Special{"exp", [](double x) { return std::exp(x); }, ExpCurves()};
  if (std::holds_alternative<GateOp>(node.op))
    return Special{"sigmoid", [](double x) { return 1 / (1 + std::exp(-x)); }, SigmoidCurves()};
  return std::nullopt;
}

Edit WithCurve(const SearchSite& site, const Node& node, Curve curve) {
  auto fault = std::make_shared<KernelFault>();
  fault->curve = std::move(curve);
  Node changed = node;
  changed.fault = std::move(fault);
  return site.With(changed);
}

void Push(const SearchSite& site, const Node& node, const Special& special, const std::string& found, Curve curve,
          bool other_activation, int parameters, std::vector<Hypothesis>& out) {
  out.push_back({.cause = other_activation ? "mlp.activation" : "kernel.approximation",
                 .edit = WithCurve(site, node, std::move(curve)),
                 .expected = special.name,
                 .found = found,
                 .statement = other_activation
                                  ? fmt::format("the activation is {} where the model has {}", found, special.name)
                                  : fmt::format("{} is computed as {}", special.name, found),
                 .fix = fmt::format("compute the model's {}, to the precision of its results", special.name),
                 .parameters = parameters,
                 .approximates = !other_activation});
}

struct Point {
  double x, y;
  std::int64_t weight = 1;
};

// Pairs of what went into the activation and what came out, the gated product divided by its other factor: rounding is
// relative, so that a small factor spoils nothing. Ascending, equal inputs merged.
std::vector<Point> PointsOf(const SearchSite& site, const Node& node) {
  const Replay& replay = site.replay();
  const RecordedSite& recorded = replay.recording().At(node.id);
  const Value& x = replay.Input(node.inputs[0]);
  const Value* up = node.inputs.size() > 1 ? &replay.Input(node.inputs[1]) : nullptr;
  std::vector<Point> points;
  for (std::int64_t t = 0; t < x.rows(); ++t) {
    if (!recorded.token_known[static_cast<std::size_t>(t)]) continue;
    for (std::size_t c = 0; c < x.row(t).size(); ++c) {
      const double factor = up != nullptr ? up->row(t)[c] : 1.0, y = recorded.value.row(t)[c] / factor;
      if (!std::isfinite(y) || !std::isfinite(x.row(t)[c])) continue;
      points.push_back({x.row(t)[c], y});
    }
  }
  std::ranges::stable_sort(points, {}, &Point::x);
  std::vector<Point> merged;
  for (const Point& point : points) {
    if (merged.empty() || merged.back().x != point.x) {
      merged.push_back(point);
    } else {
      Point& last = merged.back();
      last.y += (point.y - last.y) / static_cast<double>(++last.weight);
    }
  }
  return merged;
}

double Interpolated(const std::vector<Point>& points, double x) {
  if (x <= points.front().x) return points.front().y;
  if (x >= points.back().x) return points.back().y;
  const auto after = std::ranges::upper_bound(points, x, {}, &Point::x), before = after - 1;
  return before->y + (after->y - before->y) * (x - before->x) / (after->x - before->x);
}

// Whether the output is a function of the input: each second point foretells those between. A mistake that depends on the
// token, the channel or anything else scatters neighbours, for they come from all over.
bool IsCurve(const std::vector<Point>& points, const Curve& right) {
  if (points.size() < kFewestPoints) return false;
  std::vector<Point> half;
  for (std::size_t i = 0; i < points.size(); i += 2) half.push_back(points[i]);
  double missed = 0, off = 0;
  // The sparse ends say little of the curve between: the middle nine tenths are asked.
  for (std::size_t i = points.size() / 20 | 1; i + points.size() / 20 < points.size(); i += 2) {
    missed += std::pow(points[i].y - Interpolated(half, points[i].x), 2);
    off += std::pow(points[i].y - right(points[i].x), 2);
  }
  return off > 0 && missed <= kForetold * kForetold * off;
}

void ProposeRecovered(const SearchSite& site, const Node& node, const Special& special, std::vector<Hypothesis>& out) {
  if (node.id != site.target().id || !std::holds_alternative<ActivationOp>(node.op)) return;
  const std::vector<Point> points = PointsOf(site, node);
  if (!IsCurve(points, special.right)) return;
  // Least squares for act(a x) and b act(x), as a person would write a lost or doubled scale.
  double cross = 0, square = 0;
  for (const Point& point : points) {
    cross += point.y * special.right(point.x);
    square += special.right(point.x) * special.right(point.x);
  }
  for (const double factor : NiceNumbers(square > 0 ? cross / square : 0)) {
    Push(
        site, node, special, fmt::format("{:g} {}(x)", factor, special.name),
        [factor, right = special.right](double x) { return factor * right(x); }, false, 1, out);
  }
  const Point high = *std::ranges::max_element(points, {}, &Point::y);
  double right_low = 0, right_high = 0;
  for (const Point& point : points) {
    right_low = std::min(right_low, special.right(point.x));
    right_high = std::max(right_high, special.right(point.x));
  }
  for (const double top : NiceNumbers(high.y)) {
    if (top < right_high)
      Push(
          site, node, special, fmt::format("{} clipped at {:g}", special.name, top),
          [top, right = special.right](double x) { return std::min(right(x), top); }, false, 1, out);
    if (top < right_high && -top > right_low)
      Push(
          site, node, special, fmt::format("{} clipped at {:g} and {:g}", special.name, -top, top),
          [top, right = special.right](double x) { return std::clamp(right(x), -top, top); }, false, 1, out);
  }
  for (const double beta : NiceNumbers(site.FitLog(0.1, 10, 40, [&](double b) {
         return WithCurve(site, node, [b](double x) { return x / (1 + std::exp(-b * x)); });
       }))) {
    Push(
        site, node, special, fmt::format("x sigmoid({:g} x)", beta),
        [beta](double x) { return x / (1 + std::exp(-beta * x)); }, false, 1, out);
  }
  double largest = 0, at = 0;
  for (const Point& point : points) {
    const double error = std::fabs(point.y - special.right(point.x));
    if (error > largest) {
      largest = error;
      at = point.x;
    }
  }
  std::string values;
  for (std::size_t i = 0; i <= 8; ++i) {
    const Point& point = points[i * (points.size() - 1) / 8];
    values += fmt::format("{}f({:.4g}) = {:.6g}", i == 0 ? "" : ", ", point.x, point.y);
  }
  out.push_back(
      {.cause = "kernel.approximation",
       .edit = WithCurve(site, node, [points](double x) { return Interpolated(points, x); }),
       .expected = special.name,
       .found = fmt::format("largest error {:.3g} at {:.4g}", largest, at),
       .statement = fmt::format("what comes out is a function of what goes in, but not {}, and none known here: {}",
                                special.name, values),
       .fix = fmt::format("compute the model's {}", special.name),
       .parameters = 3,
       .last_resort = true});
}

void ProposeKnown(const SearchSite& site, const Node& node, const Special& special, std::vector<Hypothesis>& out) {
  const bool f64 = site.replay().arithmetic().inner == Rounding::kNone;
  for (const KnownCurve& other : special.others) {
    if (other.vector_kernels && !f64) continue;
    if (other.name != special.name) Push(site, node, special, other.name, other.of, other.other_activation, 0, out);
  }
}

}  // namespace

void ProposeQuietCurve(const SearchSite& site, std::vector<Hypothesis>& out) {
  if (const auto special = SpecialIn(site.target()); special && !site.target().pooled)
    ProposeKnown(site, site.target(), *special, out);
}

void ProposeCurve(const SearchSite& site, std::vector<Hypothesis>& out) {
  for (const Node& node : site.segment()) {
    const auto special = node.fault == nullptr && !node.pooled ? SpecialIn(node) : std::nullopt;
    if (!special) continue;
    ProposeKnown(site, node, *special, out);
    ProposeRecovered(site, node, *special, out);
  }
}

}  // namespace paritrace
