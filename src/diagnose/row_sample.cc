#include "diagnose/row_sample.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "graph/product_input.h"

namespace paritrace {
namespace {

constexpr std::size_t kSampledRows = 32;
// A row whose squared error is below this share of the worst row's adds nothing that would be seen beside it.
constexpr double kOff = 1e-4;

double Square(double x) { return x * x; }

}  // namespace

RowSample::RowSample(const SearchSite& site, const Node& node, Rows rows)
    : weight_(site.graph().weights[static_cast<std::size_t>(node.weight)].tensor) {
  const Replay& replay = site.replay();
  const RecordedSite& recorded = replay.recording().At(site.target().id);
  const Value predicted = replay.Evaluate(node.id, Replay::Pass::kPredicted, site.base());
  const Value& x = replay.Input(node.inputs[0]);
  for (std::int64_t t = 0; t < x.rows(); ++t) {
    if (recorded.token_known[static_cast<std::size_t>(t)] &&
        std::ranges::all_of(x.row(t), [](double v) { return std::isfinite(v); }))
      tokens_.push_back(t);
  }
  for (const std::int64_t t : tokens_) {
    std::vector<double> row(x.row(t).begin(), x.row(t).end());
    RoundProductInput(replay.arithmetic(), replay.arithmetic().dot_weight.value_or(weight_.dtype), row);
    inputs_.insert(inputs_.end(), row.begin(), row.end());
  }
  const auto error_at = [&](std::int64_t t, std::int64_t r) {
    const auto c = static_cast<std::size_t>(r);
    const double e = recorded.value.row(t)[c] - predicted.row(t)[c];
    return std::isfinite(e) ? e : 0.0;
  };
  std::vector<double> error(static_cast<std::size_t>(predicted.cols()));
  for (const std::int64_t t : tokens_) {
    for (std::int64_t r = 0; r < predicted.cols(); ++r) error[static_cast<std::size_t>(r)] += Square(error_at(t, r));
  }
  rows_.resize(error.size());
  std::iota(rows_.begin(), rows_.end(), std::int64_t{0});
  std::ranges::stable_sort(rows_, [&](std::int64_t a, std::int64_t b) {
    return error[static_cast<std::size_t>(a)] > error[static_cast<std::size_t>(b)];
  });
  if (rows == Rows::kWorst) {
    rows_.resize(std::min(rows_.size(), kSampledRows));
  } else {
    const double least = kOff * error[static_cast<std::size_t>(rows_[0])];
    std::erase_if(rows_, [&](std::int64_t r) { return !(error[static_cast<std::size_t>(r)] > least); });
  }
  for (const std::int64_t r : rows_) {
    for (const std::int64_t t : tokens_) errors_.push_back(error_at(t, r));
  }
  right_ = Products({});
}

RowSample::Fit RowSample::Compare(const std::vector<double>& effect) const {
  double cross = 0, square = 0, error = 0, left = 0;
  for (std::size_t i = 0; i < errors_.size(); ++i) {
    cross += errors_[i] * effect[i];
    square += Square(effect[i]);
    error += Square(errors_[i]);
    left += Square(errors_[i] - effect[i]);
  }
  if (!(error > 0) || !(square > 0) || !std::isfinite(square)) return {};
  return {std::sqrt(left / error), cross / square};
}

RowSample::Fit RowSample::Of(const WeightReading& reading) const {
  std::vector<double> effect = Products(reading);
  for (std::size_t i = 0; i < effect.size(); ++i) effect[i] -= right_[i];
  return Compare(effect);
}

RowSample::Fit RowSample::WithoutInputsFrom(std::int64_t begin) const {
  std::vector<double> effect;
  for (const std::int64_t r : rows_) {
    for (const double share : Share(ReadRows(weight_, {}, r, 1), begin, weight_.shape[1])) effect.push_back(-share);
  }
  return Compare(effect);
}

RowSample::Fit RowSample::WithInputs(const Value& x, const Value& right) const {
  RowSample other = *this;  // the product is linear: it takes the difference
  other.inputs_.clear();
  for (const std::int64_t t : tokens_) {
    for (std::size_t c = 0; c < x.row(t).size(); ++c) other.inputs_.push_back(x.row(t)[c] - right.row(t)[c]);
  }
  return Compare(other.Products({}));
}

std::vector<double> RowSample::Share(std::span<const float> row, std::int64_t begin, std::int64_t end) const {
  const std::int64_t columns = weight_.shape[1];
  std::vector<double> sums(tokens_.size());
  for (std::size_t t = 0; t < tokens_.size(); ++t) {
    const double* x = inputs_.data() + static_cast<std::int64_t>(t) * columns;
    for (std::int64_t i = begin; i < end; ++i) sums[t] += static_cast<double>(row[static_cast<std::size_t>(i)]) * x[i];
  }
  return sums;
}

std::vector<double> RowSample::Products(const WeightReading& reading) const {
  std::vector<double> products;
  for (const std::int64_t r : rows_) {
    const std::vector<double> sums = Share(ReadRows(weight_, reading, r, 1), 0, weight_.shape[1]);
    products.insert(products.end(), sums.begin(), sums.end());
  }
  return products;
}

}  // namespace paritrace
