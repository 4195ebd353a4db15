#include "compare/routing.h"

#include <algorithm>

#include "core/decode.h"

namespace paritrace {
namespace {

struct Rows {
  std::int64_t rows = 0, columns = 0;
  std::vector<double> values;
};

std::optional<Rows> RowsOf(const TensorView& tensor) {
  const Shape shape = WithoutLeadingOnes(tensor.shape, 2);
  if (shape.size() != 2) return std::nullopt;
  return Rows{shape[0], shape[1], DecodeAll(tensor)};
}

// A number of experts that no model reaches: what lies above it is no expert number.
constexpr double kMostExperts = 1 << 16;

// Experts named on one side, at least.
std::int64_t ExpertsNamed(const Rows& experts) {
  double most = -1;
  for (const double expert : experts.values) {
    if (!(expert >= 0 && expert < kMostExperts)) return 0;
    most = std::max(most, expert);
  }
  return static_cast<std::int64_t>(most) + 1;
}

// Empty where the side cannot be brought to that form.
std::vector<double> ByExpert(const Rows& weights, const std::optional<Rows>& experts, std::int64_t count) {
  if (weights.columns == count && (!experts || experts->columns != count)) return weights.values;
  if (!experts || experts->rows != weights.rows || experts->columns != weights.columns) return {};
  std::vector<double> dense(static_cast<std::size_t>(weights.rows * count));
  for (std::size_t i = 0; i < weights.values.size(); ++i) {
    const auto row = static_cast<std::int64_t>(i) / weights.columns;
    dense[static_cast<std::size_t>(row * count) + static_cast<std::size_t>(experts->values[i])] += weights.values[i];
  }
  return dense;
}

}  // namespace

std::optional<ExpertWeights> AlignExpertWeights(const RecordedWeights& reference, const RecordedWeights& subject) {
  const auto ours = RowsOf(reference.weights), theirs = RowsOf(subject.weights);
  if (!ours || !theirs || ours->rows != theirs->rows) return std::nullopt;
  const auto our_experts = reference.experts != nullptr ? RowsOf(*reference.experts) : std::nullopt;
  const auto their_experts = subject.experts != nullptr ? RowsOf(*subject.experts) : std::nullopt;
  const bool same_order = our_experts && their_experts && our_experts->values == their_experts->values;
  if (ours->columns == theirs->columns && (same_order || (!our_experts && !their_experts))) return std::nullopt;
  std::int64_t count = 0;
  for (const auto* named : {&our_experts, &their_experts}) {
    if (!*named) continue;
    const std::int64_t experts = ExpertsNamed(**named);
    if (experts == 0) return std::nullopt;
    count = std::max(count, experts);
  }
  // A side that stands by expert already says how many there are.
  if (our_experts && ours->columns != our_experts->columns) count = std::max(count, ours->columns);
  if (their_experts && theirs->columns != their_experts->columns) count = std::max(count, theirs->columns);
  if (!our_experts) count = std::max(count, ours->columns);
  if (!their_experts) count = std::max(count, theirs->columns);
  ExpertWeights aligned{ours->rows, count, ByExpert(*ours, our_experts, count),
                        ByExpert(*theirs, their_experts, count)};
  const auto size = static_cast<std::size_t>(ours->rows * count);
  if (aligned.reference.size() != size || aligned.subject.size() != size) return std::nullopt;
  return aligned;
}

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
