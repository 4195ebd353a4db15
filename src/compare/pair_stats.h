// Statistics of a pair of tensors, in one pass over both, that merge across chunks, threads, shards and machines.
//
// Merging is associative and commutative: counts are integers, maxima keep the lowest index, and sums carry their
// rounding error along (TwoSum), so that the order of merging moves a sum by less than 2^-100 of the sum of magnitudes
// per merge. The result of ComparePair does not depend on the number of threads to the last bit.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "compare/detail_stats.h"
#include "core/tensor.h"
#include "trace/tensor_stats.h"  // MaskBound

namespace paritrace {

// A sum that keeps what each addition rounds off (Knuth's TwoSum): value + carry is exact far beyond f64.
struct CarriedSum {
  double value = 0, carry = 0;
  void Add(double term);
  void Add(const CarriedSum& other);
  [[nodiscard]] double Total() const { return value + carry; }
};

// Reference r, subject s, over `count` pairs. Sums and maxima run over the pairs where both are finite.
// Equal: same value, -0 and +0, infinities of one sign, NaN with NaN, and (scores) masked with masked.
struct PairStats {
  std::int64_t count = 0;
  std::int64_t equal = 0;
  std::int64_t nan_reference = 0, nan_subject = 0, nan_either = 0;  // either: NaN on at least one side
  std::int64_t inf_reference = 0, inf_subject = 0, inf_either = 0;
  std::int64_t masked = 0;  // masked on both sides; not among the sums, nor among nan and inf
  std::int64_t mismatches =
      0;  // unequal pairs that no difference can measure: NaN, infinite or masked on one side only
  std::int64_t first_mismatch = -1;
  double max_abs = 0;
  std::int64_t max_abs_at = -1;               // -1: no finite pair differs
  double max_reference = 0, max_subject = 0;  // the two values there
  CarriedSum abs, rr, ss, rs, dd;             // sums of |r-s|, r*r, s*s, r*s, (r-s)^2

  // Indices must already stand in the same numbering on both sides.
  void Merge(const PairStats& other);

  [[nodiscard]] std::int64_t Finite() const { return count - masked - unmeasured; }
  [[nodiscard]] bool AllEqual() const { return equal == count; }
  [[nodiscard]] double MeanAbs() const;       // 0 where no pair is finite
  [[nodiscard]] double RmsReference() const;  // likewise
  [[nodiscard]] double RmsSubject() const;
  [[nodiscard]] double Cosine() const;  // 1 where both are all zero, 0 where one is
  [[nodiscard]] double Nmse() const;  // dd / rr; 0 where nothing differs, infinite where only the reference is all zero

  std::int64_t unmeasured = 0;  // pairs with a NaN or infinity on some side, equal or not (masked ones apart)
};

// What is kept for each position (token).
struct PositionStats {
  double max_abs = 0, rr = 0, ss = 0, rs = 0, dd = 0;
  std::int64_t mismatches = 0;
  std::int64_t unequal = 0;

  void Merge(const PositionStats& other);
  [[nodiscard]] double Cosine() const;
  [[nodiscard]] double Nmse() const;
};

// Where one side's value of (outer, row, inner) lies, in values from the tensor's first.
struct SideLayout {
  std::int64_t base = 0, outer_stride = 0, row_stride = 0, inner_stride = 1;
  // Place, within the row, of the value that counts as the i-th; empty: the i-th itself.
  std::vector<std::int64_t> order;
};

// How the values of two tensors pair up: rows are positions (tokens); `outer` is what repeats around them (heads that
// stand before the token axis), `inner` what a position holds. Value (o, r, i) has the index (o * rows + r) * inner + i.
struct PairLayout {
  std::int64_t outer = 1, rows = 0, inner = 0;
  SideLayout reference, subject;
  bool masked_scores = false;  // a value at or below MaskBound on either side is a mask, not a number

  [[nodiscard]] std::int64_t Count() const { return outer * rows * inner; }
  // The value's place in the reference's and the subject's own tensor, from a pair's index.
  [[nodiscard]] std::int64_t ReferenceIndex(std::int64_t index) const;
  [[nodiscard]] std::int64_t SubjectIndex(std::int64_t index) const;
};

// Both contiguous, the same shape, the last axis `inner`, everything before it rows.
[[nodiscard]] PairLayout ContiguousLayout(std::int64_t rows, std::int64_t inner);

struct PairComparison {
  PairStats total;
  std::vector<PositionStats> positions;  // [rows]
  std::optional<DetailStats> detail;     // where it was asked for
};

// Called now and then, from any thread, with the values done since the last call.
using ProgressFunction = std::function<void(std::int64_t)>;

struct CompareOptions {
  ProgressFunction progress = nullptr;
  bool detail = false;  // detail_stats.h as well
};

// Compares two tensors of any dtype. Fast for f64, f32, f16, bf16 in contiguous rows in every mix; other types and
// gathered rows are decoded in tiles that stay in cache. i64 and u64 are compared in long double, which holds them exactly.
// Precision: every sum agrees with long double to 1e-12 of the sum of its terms' magnitudes.
// Errors: InternalError if the layout reaches outside a tensor; UsageError for a dtype that has no decoder.
[[nodiscard]] PairComparison ComparePair(const TensorView& reference, const TensorView& subject,
                                         const PairLayout& layout, const CompareOptions& options = {});

// The same, value by value in long double, without threads or vectors: what the kernels are tested against.
[[nodiscard]] PairComparison ComparePairReference(const TensorView& reference, const TensorView& subject,
                                                  const PairLayout& layout);

}  // namespace paritrace
