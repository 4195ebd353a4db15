// The rows of a matrix whose recorded products are off most, and what a wrong reading of them would change there.
// A whole matrix costs what a replay costs; a few of its rows tell whether a hypothesis is worth that.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "diagnose/hypothesis.h"
#include "graph/weight_reading.h"

namespace paritrace {

class RowSample {
 public:
  // kWorst: a few rows, those that are off most. kAllOff: every row that is off at all beside the worst one.
  enum class Rows : std::uint8_t { kWorst, kAllOff };
  // node: a linear one, recorded, the target of `site`. Tokens whose inputs are not finite are left out; the others' inputs are
  // rounded as the arithmetic rounds them before the product.
  RowSample(const SearchSite& site, const Node& node, Rows rows = Rows::kWorst);

  // The share of the error that stays, as a root, and the factor that fits the reading's effect best.
  struct Fit {
    double left = 1, factor = 0;
  };
  [[nodiscard]] Fit Of(const WeightReading& reading) const;
  // The same for the effect of leaving out the inputs from `begin` on.
  [[nodiscard]] Fit WithoutInputsFrom(std::int64_t begin) const;

  // The same for other inputs in place of `right`, both shaped as the node's.
  [[nodiscard]] Fit WithInputs(const Value& x, const Value& right) const;

  [[nodiscard]] const std::vector<std::int64_t>& rows() const { return rows_; }  // most off first
  [[nodiscard]] std::size_t tokens() const { return tokens_.size(); }
  // recorded - predicted of rows()[row], for each token.
  [[nodiscard]] std::span<const double> ErrorsOf(std::size_t row) const {
    return std::span(errors_).subspan(row * tokens_.size(), tokens_.size());
  }
  // sum over columns [begin, end) of weight times input, for each token.
  [[nodiscard]] std::vector<double> Share(std::span<const float> row, std::int64_t begin, std::int64_t end) const;

 private:
  [[nodiscard]] std::vector<double> Products(const WeightReading& reading) const;  // [rows, tokens]
  [[nodiscard]] Fit Compare(const std::vector<double>& effect) const;

  const TensorView& weight_;
  std::vector<std::int64_t> tokens_, rows_;
  std::vector<double> inputs_, errors_, right_;  // [tokens, columns], [rows, tokens], [rows, tokens]
};

}  // namespace paritrace
