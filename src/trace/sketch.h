// A few hundred numbers that stand in for a tensor: the difference of two sketches estimates the difference of the two
// tensors, without either. Linear: sketches of disjoint parts (chunks, shards, ranks) add up to the sketch of the whole.
//
// A sparse sign projection: CountSketch (Charikar, Chen, Farach-Colton, ICALP 2002) with kHashes hashes a value, so
// that a difference of few large values does not hang on one collision (as in Kane and Nelson, arXiv:1012.1577). The
// sum of squares of its buckets is the estimate of Alon, Matias, Szegedy (STOC 1996), the mean over the hashes.
// The buckets are dealt out to groups of neighbouring positions (tokens), so that a difference can be placed.
// Values are hashed eight neighbours at a time: one bucket range, one rotation and eight signs for the block. Two values of
// different blocks share a bucket as often as if each had its own hash, those of one block never, and all signs are
// independent, so that expectation and variance are those of the plain sketch, at an eighth of its cost.
// All follows from a fixed seed and the block's index: any two tensors of one shape are comparable.
// Sources of the figures: docs/trace-format.md, "Sketches".
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"

namespace paritrace {

// How the values of a tensor fall into groups and buckets; follows from its shape alone, leading axes of size 1 apart.
struct SketchPlan {
  static constexpr std::int64_t kBuckets = 1024;  // in all groups together, at most
  static constexpr std::int64_t kGroups = 32;     // at most
  static constexpr std::int64_t kHashes = 4;

  explicit SketchPlan(const Shape& shape);

  std::int64_t values = 0;     // of the tensor
  std::int64_t last = 1;       // length of the last axis
  std::int64_t positions = 1;  // length of the axis before it: tokens, in every layout that a trace may hold
  std::int64_t features = 0;   // values of one position
  std::int64_t positions_per_group = 1;
  std::int64_t groups = 0;
  std::int64_t buckets = 0;  // of one group
  // A group has no more values than buckets: each value has its own, and nothing is estimated.
  bool exact = false;

  [[nodiscard]] std::int64_t PositionOf(std::int64_t index) const { return index / last % positions; }
  [[nodiscard]] std::int64_t GroupOf(std::int64_t index) const { return PositionOf(index) / positions_per_group; }
  // The last group may have fewer than positions_per_group.
  [[nodiscard]] std::int64_t PositionsIn(std::int64_t group) const;
  bool operator==(const SketchPlan&) const = default;
};

class Sketch {
 public:
  explicit Sketch(const Shape& shape);

  // Adds values that stand from flat index `begin` on in the tensor. NaN and infinities are counted and otherwise
  // left out, as if they were 0. Sums in double, in the order of the calls.
  // Errors: InternalError if they reach outside the tensor.
  void Add(std::int64_t begin, std::span<const double> values);

  // Adds a stretch of one row and returns the sum of its squares. What is not finite, and what is up to `mask_bound` (NaN:
  // nothing), counts as 0. For float and double.
  //   row, position, column  where the first value stands; position = row mod plan().positions
  //   values                 [count], within the row: not checked
  template <typename T>
  double AddRun(std::int64_t row, std::int64_t position, std::int64_t column, const T* values, std::int64_t count,
                double mask_bound);

  // The sketch of the sum of both tensors; of the whole, where each holds some of its values.
  // Errors: InternalError if the shapes differ.
  void Merge(const Sketch& other);

  // Text for a trace's index: "pt2:" and base64. Buckets are rounded to 24 bits on a grid of their group, whose step is
  // a power of two. "" where a bucket is no finite number (sums of f64 values near its largest).
  [[nodiscard]] std::string Encode() const;

  // nullopt: no sketch of that shape, or of a version that is not known.
  [[nodiscard]] static std::optional<Sketch> Decode(std::string_view text, const Shape& shape);

  [[nodiscard]] const SketchPlan& plan() const { return plan_; }
  [[nodiscard]] std::span<const double> Group(std::int64_t group) const;
  // Step of the grid that the group's buckets were rounded to; 0 for what was not decoded from text.
  [[nodiscard]] double Step(std::int64_t group) const { return steps_[static_cast<std::size_t>(group)]; }
  [[nodiscard]] std::int64_t nan() const { return nan_; }  // 0 after decoding: the index's statistics have them
  [[nodiscard]] std::int64_t inf() const { return inf_; }

 private:
  SketchPlan plan_;
  std::vector<double> buckets_;  // [groups, buckets]; in a group [kHashes, buckets / kHashes], or one a value
  std::vector<double> steps_;    // [groups]
  std::int64_t nan_ = 0, inf_ = 0;
};

// An estimate and the interval that holds the truth in at least 95 of 100 cases (computed for 98).
struct Estimate {
  double value = 0, low = 0, high = 0;
};

struct DifferenceEstimate {
  Estimate total;                // sum of squares of the difference, over the groups asked for
  std::vector<Estimate> groups;  // the same for each group; their intervals hold all at once as often
};

// The sum of squares of the difference of two tensors of one shape.
//   wanted  [groups] which groups count; {}: all. The others are left 0.
// Interval: a bucket is a sum of many signed differences, near normal with mean 0, so that the sum of squares over k
// buckets is chi-squared with k degrees of freedom (for few large differences its variance is smaller: Charikar et al.,
// lemma 2; the interval is then too wide). Groups add up with the degrees of freedom of Satterthwaite (Biometrics
// Bulletin 2, 1946). Rounding to the grid adds a known energy, which is taken off; nothing smaller than the most it
// can be is told from 0.
// Errors: InternalError if the shapes differ.
[[nodiscard]] DifferenceEstimate EstimateDifference(const Sketch& a, const Sketch& b,
                                                    const std::vector<bool>& wanted = {});

}  // namespace paritrace
