// Where in a compared pair rounding no longer explains what differs.
#pragma once

#include <cstdint>
#include <optional>

#include "compare/pair_stats.h"

namespace paritrace {

// rms(difference) / rms(reference) that rounding explains (NoiseModel::Relative).
struct ErrorBounds {
  double row = 0;    // of a row
  double value = 0;  // of a single value: there are more of those to judge, so it is larger
};

// The first row that `bounds` do not explain; nullopt if all are explained.
// exact: values that no arithmetic rounds (integers): any difference counts.
[[nodiscard]] std::optional<std::int64_t> FirstDivergedRow(const PairComparison& comparison, const PairLayout& layout,
                                                           const ErrorBounds& bounds, bool exact);

}  // namespace paritrace
