// What of a tensor is kept to recognise it in another trace: a sample of its values in one canonical order.
// Kept apart from reading layouts for comparing (align.h): there the pair is known and every value counts; here each tensor
// of one trace is held against each of the other, so that a few thousand values a tensor must do.
// Dtype-blind: values are compared as f32, whatever they were stored as.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "trace/trace.h"

namespace paritrace {

// The rows that both sides of a step hold, as seen from one side.
struct StepRows {
  std::int64_t tokens = 0;  // rows that the step has on this side; 0: unknown, and no reading by token is made
  std::int64_t skip = 0;    // rows before the first common one
  std::int64_t rows = 0;    // common rows
  std::int64_t keys = 0;    // keys that attention sees at the last row; 0: unknown
};

// One way to read a tensor as [rows, features].
struct ContentView {
  enum class Kind {
    kRows,     // by token
    kPadded,   // by token, less the columns beyond the keys
    kLastRow,  // the last token of several: an engine may keep only that one of the logits
    kOneRow,   // a single row in a step of several
    kFlat,     // not by token at all: the values as they stand
  };
  Kind kind = Kind::kRows;
  std::int64_t rows = 0, features = 0;
  std::string_view layout;  // as stored: "[tokens, features]", "[heads, tokens, dim]", …
  // [sampled rows, width]: at most kSampledRows rows, and of each the first `width` features. Non-finite values and masks
  // (<= -1e30) are 0.
  std::vector<float> sample;
  std::int64_t width = 0;
  double energy = 0;            // sum of squares of the sample
  std::int64_t masked = 0;      // values in it that are masks
  bool says_something = false;  // false where all values are equal: every tensor of zeros looks like any other
};
constexpr std::int64_t kSampledRows = 16, kSampledFeatures = 512;

// Every reading that fits the step; {} where the tensor holds no values or its dtype has no decoder.
[[nodiscard]] std::vector<ContentView> ReadContent(const TensorView& tensor, const StepRows& step);

// The number of tokens of a step whose trace does not say: the commonest first axis of its matrices; 0: there is none.
[[nodiscard]] std::int64_t GuessTokens(std::span<const TraceEntry* const> entries);

// Where views of one kind and size stand, so that each tensor meets only those it could equal.
using ViewKey = std::pair<std::int64_t, std::int64_t>;  // rows (-1: flat), features
[[nodiscard]] ViewKey KeyOf(const ContentView& view);

// True if the two may be held against each other at all.
[[nodiscard]] bool Comparable(const ContentView& a, const ContentView& b);

// Rows of q and k stand half-split in one engine, interleaved in the other (contract, section 2).
struct RowOrder {
  std::int64_t head_dim = 0;
  bool subject_is_interleaved = false;
  friend bool operator==(const RowOrder&, const RowOrder&) = default;
};

// sum((a-b)^2) / sqrt(sum(a^2) sum(b^2)): 0 equal, 2 unrelated values of one size. Where the two are multiples of each
// other it is at least 0.3: more alike than unrelated, never as alike as equal ones. 2 or more where only one is masked.
// nullopt where the values say nothing (both constant) or views do not fit.
[[nodiscard]] std::optional<double> ContentDistance(const ContentView& a, const ContentView& b);

// The same with the rows of one side brought to the other's order. nullopt also where head_dim does not divide the width.
[[nodiscard]] std::optional<double> ContentDistance(const ContentView& reference, const ContentView& subject,
                                                    const RowOrder& order);

// With the values of each row sorted: of two such the distance is near 0 where one is a permutation of the other's features.
[[nodiscard]] ContentView WithSortedRows(ContentView view);

}  // namespace paritrace
