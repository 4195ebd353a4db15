#include "compare/judge.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace paritrace {
namespace {

// The energy of a usual row. The median, because a first token may be a hundred times larger than all others.
double MedianEnergy(const std::vector<PositionStats>& rows) {
  if (rows.empty()) return 0;
  std::vector<double> energies;
  energies.reserve(rows.size());
  for (const PositionStats& row : rows) energies.push_back(row.rr);
  const auto middle = energies.begin() + static_cast<std::ptrdiff_t>(energies.size() / 2);
  std::nth_element(energies.begin(), middle, energies.end());
  return *middle;
}

// A single wrong value drowns in the sums of its row. Rounding spreads over all values, if unevenly (products of large
// activations); so the largest difference is suspect where it exceeds the bound against the values there, and is more
// than all other differences of the tensor together. -1: it is not.
std::int64_t RowOfLoneDifference(const PairComparison& comparison, const PairLayout& layout, double bound,
                                 double usual) {
  const PairStats& stats = comparison.total;
  if (stats.max_abs_at < 0) return -1;
  const std::int64_t row = stats.max_abs_at / layout.inner % layout.rows;
  const auto values = static_cast<double>(layout.outer * layout.inner);
  const double around = std::sqrt(std::max(comparison.positions[static_cast<std::size_t>(row)].rr, usual) / values);
  const double size = std::max({std::fabs(stats.max_reference), std::fabs(stats.max_subject), around});
  const bool alone = 2 * stats.max_abs * stats.max_abs >= stats.dd.Total();
  return !(stats.max_abs <= bound * size) && alone ? row : -1;
}

}  // namespace

std::optional<std::int64_t> FirstDivergedRow(const PairComparison& comparison, const PairLayout& layout,
                                             const ErrorBounds& bounds, bool exact) {
  const std::vector<PositionStats>& rows = comparison.positions;
  // A row of small values (one score, a first token) is measured against a usual row: its error comes from operands of
  // that size.
  const double usual = MedianEnergy(rows);
  const std::int64_t lone = RowOfLoneDifference(comparison, layout, bounds.value, usual);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const bool explained = rows[i].dd <= bounds.row * bounds.row * std::max(rows[i].rr, usual);
    const bool wrong = rows[i].mismatches > 0 || !explained || (exact && rows[i].unequal > 0);
    if (wrong || static_cast<std::int64_t>(i) == lone) return static_cast<std::int64_t>(i);
  }
  return std::nullopt;
}

}  // namespace paritrace
