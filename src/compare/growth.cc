#include "compare/growth.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <numeric>
#include <set>

namespace paritrace {
namespace {

struct Sums {
  double dd = 0, rr = 0;
  void Add(const PositionStats& position) {
    dd += position.dd;
    rr += position.rr;
  }
};

Trend FromSums(std::string site, const std::map<std::int64_t, Sums>& sums) {
  Trend trend;
  trend.site = std::move(site);
  for (const auto& [at, sum] : sums) {
    if (sum.dd > 0 && sum.rr > 0) {
      trend.points.push_back({at, std::sqrt(sum.dd / sum.rr)});
    } else {
      ++trend.exact;
    }
  }
  FitTrend(trend);
  return trend;
}

Trend ByLayer(const DiffResult& diff) {
  Trend best;
  std::size_t most = 0;
  for (const std::string role : {"out", "mlp.residual", "mlp.out", "attn.residual", "attn.out"}) {
    std::map<std::int64_t, Sums> sums;
    for (const SiteDiff& site : diff.sites) {
      if (!site.compared || !site.site.starts_with("layers.")) continue;
      const std::size_t dot = site.site.find('.', 7);
      if (dot == std::string::npos || site.site.substr(dot + 1) != role) continue;
      Sums& layer = sums[std::atoll(site.site.c_str() + 7)];
      for (const PositionStats& position : site.positions) layer.Add(position);
    }
    if (sums.size() <= most) continue;
    most = sums.size();
    best = FromSums("layers.*." + role, sums);
  }
  return best;
}

Trend ByPosition(const DiffResult& diff) {
  // The last of these that was compared.
  std::string chosen;
  std::int64_t last_layer = -1;
  for (const SiteDiff& site : diff.sites) {
    if (!site.compared || !site.is_site) continue;
    if (site.site.starts_with("layers.") && site.site.ends_with(".out") &&
        std::count(site.site.begin(), site.site.end(), '.') == 2) {
      last_layer = std::max<std::int64_t>(last_layer, std::atoll(site.site.c_str() + 7));
    }
  }
  if (last_layer >= 0) chosen = "layers." + std::to_string(last_layer) + ".out";
  // Logits of the last token only would leave a single position.
  std::size_t most = 0;
  for (const std::string& candidate : {std::string("logits"), std::string("final_norm"), chosen}) {
    std::set<std::int64_t> positions;
    for (const SiteDiff& site : diff.sites) {
      if (!site.compared || site.site != candidate) continue;
      for (std::size_t i = 0; i < site.positions.size(); ++i)
        positions.insert(site.first_position + static_cast<std::int64_t>(i));
    }
    if (positions.size() <= most) continue;
    most = positions.size();
    chosen = candidate;
  }
  std::map<std::int64_t, Sums> sums;
  for (const SiteDiff& site : diff.sites) {
    if (!site.compared || site.site != chosen) continue;
    for (std::size_t i = 0; i < site.positions.size(); ++i)
      sums[site.first_position + static_cast<std::int64_t>(i)].Add(site.positions[i]);
  }
  return FromSums(chosen, sums);
}

// Slope of the least squares line, up to its constant denominator: what a shuffle of y changes.
double Covariance(const std::vector<double>& x, const std::vector<double>& y) {
  const double mean = std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += (x[i] - mean) * y[i];
  return sum;
}

// A fixed sequence of our own: std::shuffle's is not the same in every standard library.
class Shuffler {
 public:
  void Shuffle(std::vector<double>& values) {
    for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[Next() % i]);
  }

 private:
  std::uint64_t Next() {  // splitmix64
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  std::uint64_t state_ = 1;
};

}  // namespace

void FitTrend(Trend& trend) {
  constexpr std::size_t kExact = 7, kFewest = 5;
  constexpr int kShuffles = 9999;
  const std::size_t n = trend.points.size();
  // n points allow n! orders, two of which are straight: below five, 2 / n! is more than 0.05.
  trend.enough = n >= kFewest;
  trend.slope = 0;
  trend.p_value = 1;
  if (n < 2) return;
  std::vector<double> x, y;
  for (const TrendPoint& point : trend.points) {
    x.push_back(static_cast<double>(point.at));
    y.push_back(std::log10(point.error));
  }
  const double spread = Covariance(x, x);
  if (spread <= 0) return;
  const double observed = std::fabs(Covariance(x, y));
  trend.slope = Covariance(x, y) / spread;
  // Equal up to rounding counts as equally steep.
  const double steep = observed * (1 - 1e-12);
  std::int64_t as_steep = 0, tried = 0;
  if (n <= kExact) {
    std::sort(y.begin(), y.end());
    do {
      ++tried;
      as_steep += std::fabs(Covariance(x, y)) >= steep;
    } while (std::next_permutation(y.begin(), y.end()));
  } else {
    Shuffler shuffler;
    tried = as_steep = 1;  // the order as it is
    for (int i = 0; i < kShuffles; ++i) {
      shuffler.Shuffle(y);
      ++tried;
      as_steep += std::fabs(Covariance(x, y)) >= steep;
    }
  }
  trend.p_value = static_cast<double>(as_steep) / static_cast<double>(tried);
}

GrowthResult CompareGrowth(const Trace& reference, const Trace& subject, const DiffOptions& options) {
  GrowthResult result;
  result.diff = Diff(reference, subject, options);
  result.by_layer = ByLayer(result.diff);
  result.by_position = ByPosition(result.diff);
  // A dump's prints and statistics may show parity, but no error that could be followed.
  const auto measured = [](const Trend& trend) { return !trend.points.empty() || trend.exact > 0; };
  if (result.diff.verdict == Verdict::kWithinNoise && !measured(result.by_layer) && !measured(result.by_position)) {
    result.diff.verdict = Verdict::kIncomparable;
    result.diff.reason = "no site has values on both sides, so there is no error to follow";
  }
  return result;
}

}  // namespace paritrace
