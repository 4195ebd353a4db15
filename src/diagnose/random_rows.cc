#include "diagnose/random_rows.h"

#include <algorithm>
#include <cmath>

namespace paritrace {

double Dot(std::span<const double> a, std::span<const double> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

double Correlation(const Rows& a, const Rows& b) {
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t t = 0; t < a.size(); ++t) {
    ab += Dot(a[t], b[t]);
    aa += Dot(a[t], a[t]);
    bb += Dot(b[t], b[t]);
  }
  return aa > 0 && bb > 0 ? ab / std::sqrt(aa * bb) : 0;
}

void Subtract(std::vector<double>& from, const std::vector<double>& row, double factor) {
  for (std::size_t i = 0; i < from.size(); ++i) from[i] -= factor * row[i];
}

void Whiten(Rows& inputs, std::vector<Rows*> outputs) {
  constexpr double kOwnShare = 1e-2;
  Rows basis;
  std::vector<Rows> kept(outputs.size());
  for (std::size_t t = 0; t < inputs.size(); ++t) {
    std::vector<double> x = inputs[t];
    std::vector<std::vector<double>> y;
    for (const Rows* rows : outputs) y.push_back((*rows)[t]);
    const double before = Dot(x, x);
    for (std::size_t i = 0; i < basis.size(); ++i) {
      const double along = Dot(x, basis[i]);
      Subtract(x, basis[i], along);
      for (std::size_t k = 0; k < y.size(); ++k) Subtract(y[k], kept[k][i], along);
    }
    const double own = Dot(x, x);
    if (!(own > kOwnShare * before)) continue;
    const double scale = 1 / std::sqrt(own);
    for (double& value : x) value *= scale;
    for (std::size_t k = 0; k < y.size(); ++k) {
      for (double& value : y[k]) value *= scale;
      kept[k].push_back(std::move(y[k]));
    }
    basis.push_back(std::move(x));
  }
  inputs = std::move(basis);
  for (std::size_t k = 0; k < outputs.size(); ++k) *outputs[k] = std::move(kept[k]);
}

bool LooksRandom(const Rows& rows, double variance) {
  const auto width = static_cast<double>(rows[0].size()), spread = std::sqrt(2 / width);
  double squares = 0, pairs = 0;
  for (std::size_t t = 0; t < rows.size(); ++t) {
    if (!(std::fabs(Dot(rows[t], rows[t]) / width / variance - 1) <= kSigmas * spread)) return false;
    for (std::size_t s = 0; s < t; ++s) {
      const double correlation = Dot(rows[t], rows[s]) / (width * variance);
      squares += correlation * correlation * width;
      ++pairs;
    }
  }
  return squares <= pairs + kSigmas * std::sqrt(2 * pairs);  // each expected to be 1, with variance 2
}

bool IsReordered(const Rows& recorded, const Rows& right) {
  const std::size_t width = recorded[0].size(), step = std::max<std::size_t>(width / 32, 1);
  std::size_t looked = 0, found = 0;
  for (std::size_t c = 0; c < width; c += step) {
    ++looked;
    double own = 0;
    for (const auto& row : recorded) own += row[c] * row[c];
    for (std::size_t other = 0; other < right[0].size(); ++other) {
      double distance = 0;
      for (std::size_t t = 0; t < recorded.size() && distance < 0.05 * own; ++t)
        distance += std::pow(recorded[t][c] - right[t][other], 2);
      if (!(distance < 0.05 * own)) continue;
      ++found;
      break;
    }
  }
  return 4 * found > looked;
}

}  // namespace paritrace
