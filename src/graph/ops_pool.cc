// The tail of an embedding model: all tokens' rows become one, which is brought to length one.
#include <algorithm>
#include <cmath>

#include "graph/ops.h"

namespace paritrace {
namespace {

void PoolInto(PoolMode mode, const Value& x, const Arithmetic& arithmetic, std::span<double> to) {
  const Rounding storage = arithmetic.storage;
  const std::int64_t tokens = x.rows();
  if (mode == PoolMode::kFirst || mode == PoolMode::kLast) {
    std::ranges::copy(x.row(mode == PoolMode::kFirst ? 0 : tokens - 1), to.begin());
    return;
  }
  if (mode == PoolMode::kMax) {
    std::ranges::copy(x.row(0), to.begin());
    for (std::int64_t t = 1; t < tokens; ++t) {
      for (std::size_t c = 0; c < to.size(); ++c) {
        const double value = x.row(t)[c];
        if (value > to[c] || std::isnan(value)) to[c] = value;
      }
    }
    return;
  }
  const bool weighted = mode == PoolMode::kWeightedMean;
  const auto count = static_cast<double>(tokens);
  const double whole = weighted ? count * (count + 1) / 2 : count;
  const double divisor = Round(storage, mode == PoolMode::kMeanSqrt ? std::sqrt(whole) : whole);
  for (std::size_t c = 0; c < to.size(); ++c) {
    Summer sum(arithmetic.reduce);
    for (std::int64_t t = 0; t < tokens; ++t) {
      const double value = x.row(t)[c];
      sum.Add(weighted ? Round(storage, value * static_cast<double>(t + 1)) : value);
    }
    to[c] = Round(storage, Round(storage, sum.sum()) / divisor);
  }
}

}  // namespace

Value ComputePool(const PoolOp& op, const Value& x, const Arithmetic& arithmetic) {
  const std::int64_t width = x.cols();
  Value out({1, width * static_cast<std::int64_t>(op.modes.size())});
  for (std::size_t i = 0; i < op.modes.size(); ++i) {
    PoolInto(op.modes[i], x, arithmetic,
             out.row(0).subspan(i * static_cast<std::size_t>(width), static_cast<std::size_t>(width)));
  }
  return out;
}

Value ComputeUnit(const Value& x, const Arithmetic& arithmetic) {
  constexpr double kSmallest = 1e-12;  // torch.nn.functional.normalize's eps
  Value out = x;
  for (std::int64_t r = 0; r < x.rows(); ++r) {
    Summer squares(arithmetic.reduce);
    for (const double value : x.row(r)) squares.Add(value * value);
    const double length = Round(arithmetic.storage, std::sqrt(Round(arithmetic.inner, squares.sum())));
    for (double& value : out.row(r)) value = Round(arithmetic.storage, value / std::max(length, kSmallest));
  }
  return out;
}

}  // namespace paritrace
