// The weights of a norm whose inputs and outputs were recorded: one number a lane (two in LayerNorm), many rows.
#include <array>
#include <cmath>
#include <limits>

#include "diagnose/fit_reference.h"

namespace paritrace {
namespace {

constexpr std::array kEps = {1e-5, 1e-6, 1e-8, 1e-12, 1e-3};

// What is normalised by itself: rows, or the heads of each.
struct Groups {
  std::vector<std::span<const double>> x, y;
};

Groups GroupsOf(const Value& x, const RecordedSite& y, std::int64_t width) {
  Groups groups;
  for (std::int64_t t = 0; t < x.rows(); ++t) {
    if (!y.token_known[static_cast<std::size_t>(t)]) continue;
    for (std::int64_t c = 0; c + width <= x.cols(); c += width) {
      const auto in = x.row(t).subspan(static_cast<std::size_t>(c), static_cast<std::size_t>(width)),
                 out = y.value.row(t).subspan(static_cast<std::size_t>(c), static_cast<std::size_t>(width));
      bool finite = true;
      for (std::size_t i = 0; i < in.size(); ++i) finite = finite && std::isfinite(in[i]) && std::isfinite(out[i]);
      if (!finite) continue;
      groups.x.push_back(in);
      groups.y.push_back(out);
    }
  }
  return groups;
}

std::vector<double> Normalised(std::span<const double> x, NormKind kind, double eps) {
  const auto n = static_cast<double>(x.size());
  double mean = 0, square = 0;
  if (kind == NormKind::kLayer) {
    for (const double value : x) mean += value / n;
  }
  for (const double value : x) square += (value - mean) * (value - mean) / n;
  std::vector<double> out;
  for (const double value : x) out.push_back((value - mean) / std::sqrt(square + eps));
  return out;
}

struct Fit {
  FittedNorm norm;
  double left = std::numeric_limits<double>::infinity();  // relative squared error
};

Fit FitOne(const Groups& groups, NormKind kind, double eps) {
  const std::size_t width = groups.x[0].size(), rows = groups.x.size();
  const bool layer = kind == NormKind::kLayer;
  Fit fit{.norm = {.op = {.kind = kind, .eps = eps}, .weight = std::vector<double>(width), .bias = {}}};
  if (layer) fit.norm.bias.resize(width);
  std::vector<std::vector<double>> normalised;
  for (const auto& x : groups.x) normalised.push_back(Normalised(x, kind, eps));
  double error = 0, signal = 0;
  for (std::size_t c = 0; c < width; ++c) {
    double n = 0, y = 0, nn = 0, ny = 0;
    for (std::size_t r = 0; r < rows; ++r) {
      const double a = normalised[r][c], b = groups.y[r][c];
      n += a;
      y += b;
      nn += a * a;
      ny += a * b;
    }
    const auto count = static_cast<double>(rows);
    const double spread = layer ? nn - n * n / count : nn;
    const double weight = spread > 0 ? (layer ? ny - n * y / count : ny) / spread : 0;
    const double bias = layer ? (y - weight * n) / count : 0;
    fit.norm.weight[c] = weight;
    if (layer) fit.norm.bias[c] = bias;
    for (std::size_t r = 0; r < rows; ++r) {
      const double e = groups.y[r][c] - weight * normalised[r][c] - bias;
      error += e * e;
      signal += groups.y[r][c] * groups.y[r][c];
    }
  }
  fit.left = signal > 0 ? error / signal : std::numeric_limits<double>::infinity();
  // Errors of the reference pass into the estimate: with p numbers from r rows, p / (r - p) of what the fit leaves.
  const double parameters = layer ? 2 : 1;
  fit.norm.doubt = std::sqrt(fit.left * parameters / (static_cast<double>(rows) - parameters));
  return fit;
}

}  // namespace

std::optional<FittedNorm> FitNorm(const Value& x, const RecordedSite& y, std::int64_t group) {
  const std::int64_t width = group > 0 ? group : x.cols();
  if (width < 2 || x.shape != y.value.shape) return std::nullopt;
  const Groups groups = GroupsOf(x, y, width);
  constexpr std::size_t kFewestRms = 2, kFewestLayer = 4;
  // A mean that is subtracted, and a bias, must explain far more to be believed: they are more numbers to fit.
  constexpr double kDecisive = 0.01;
  if (groups.x.size() < kFewestRms) return std::nullopt;
  Fit best;
  for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
    if (kind == NormKind::kLayer && groups.x.size() < kFewestLayer) continue;
    Fit least;
    for (const double eps : kEps) {
      Fit fit = FitOne(groups, kind, eps);
      if (fit.left < 0.99 * least.left || !std::isfinite(least.left)) least = std::move(fit);
    }
    if (!std::isfinite(best.left) || least.left < kDecisive * best.left) best = std::move(least);
  }
  if (!std::isfinite(best.left)) return std::nullopt;
  best.norm.op.group = group;
  return best.norm;
}

}  // namespace paritrace
