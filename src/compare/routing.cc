#include "compare/routing.h"

#include <algorithm>

#include "core/decode.h"

namespace paritrace {

RoutingDiff CompareRouting(const TensorView& reference, std::int64_t reference_base, const TensorView& subject,
                           std::int64_t subject_base, std::int64_t rows, std::int64_t experts) {
  RoutingDiff diff;
  diff.tokens = rows;
  // Expert numbers are far below 2^53.
  std::vector<double> ours(static_cast<std::size_t>(experts)), theirs(ours.size());
  for (std::int64_t row = 0; row < rows; ++row) {
    DecodeF64(reference, reference_base + row * experts, experts, ours.data());
    DecodeF64(subject, subject_base + row * experts, experts, theirs.data());
    if (ours == theirs) {
      ++diff.same_order;
      ++diff.same_set;
      continue;
    }
    std::sort(ours.begin(), ours.end());
    std::sort(theirs.begin(), theirs.end());
    if (ours == theirs) {
      ++diff.same_set;
    } else {
      diff.flipped.push_back(row);
    }
  }
  return diff;
}

}  // namespace paritrace
