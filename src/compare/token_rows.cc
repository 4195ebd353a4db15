#include "compare/token_rows.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "core/decode.h"

namespace paritrace {
namespace {

// Rows of one token point the same way up to rounding and an eight- or four-bit table; those of two tokens do not.
constexpr double kSame = 0.99, kOther = 0.9;
constexpr std::int64_t kFewestColumns = 8;
constexpr double kMostProducts = 1e9;  // about a second

struct Rows {
  std::int64_t count = 0, columns = 0;
  std::vector<double> values, norms;
  [[nodiscard]] const double* Row(std::int64_t row) const { return values.data() + row * columns; }
};

std::optional<Rows> EmbeddingOf(const Trace& trace) {
  const std::vector<int> steps = trace.Steps();
  const TraceEntry* entry = steps.empty() ? nullptr : trace.Find(steps.front(), "embed");
  if (entry == nullptr || !entry->has_data() || !Info(entry->tensor.dtype).is_float) return std::nullopt;
  const Shape& shape = entry->tensor.shape;
  if (shape.size() < 2 || shape.back() < kFewestColumns) return std::nullopt;
  // Several sequences side by side are not told apart here.
  if (!std::all_of(shape.begin(), shape.end() - 2, [](std::int64_t axis) { return axis == 1; })) return std::nullopt;
  Rows rows{.count = shape[shape.size() - 2], .columns = shape.back(), .values = DecodeAll(entry->tensor), .norms = {}};
  for (std::int64_t r = 0; r < rows.count; ++r) {
    double square = 0;
    for (std::int64_t c = 0; c < rows.columns; ++c) square += rows.Row(r)[c] * rows.Row(r)[c];
    if (!(square > 0) || !std::isfinite(square)) return std::nullopt;
    rows.norms.push_back(std::sqrt(square));
  }
  return rows;
}

double Cosine(const Rows& a, std::int64_t i, const Rows& b, std::int64_t j) {
  double product = 0;
  for (std::int64_t c = 0; c < a.columns; ++c) product += a.Row(i)[c] * b.Row(j)[c];
  return product / (a.norms[static_cast<std::size_t>(i)] * b.norms[static_cast<std::size_t>(j)]);
}

// Numbers for tokens: equal where the rows are. The reference's are the first positions of a token, those of subject's rows
// without a twin are negative, each its own.
struct Numbers {
  std::vector<std::int64_t> reference, subject;
  std::int64_t found = 0;  // rows of the subject with a twin
  bool only_near = false;  // a row without a twin is near the one in its place: disturbed, and no other token
};

Numbers NumberRows(const Rows& reference, const Rows& subject) {
  Numbers numbers;
  for (std::int64_t i = 0; i < reference.count; ++i) {
    std::int64_t first = 0;
    while (first < i && Cosine(reference, i, reference, first) < kSame) ++first;
    numbers.reference.push_back(first);
  }
  for (std::int64_t i = 0; i < subject.count; ++i) {
    std::int64_t first = 0;
    while (first < reference.count && Cosine(subject, i, reference, first) < kSame) ++first;
    const bool twin = first < reference.count;
    numbers.subject.push_back(twin ? first : -1 - i);
    numbers.found += twin ? 1 : 0;
    numbers.only_near |= !twin && i < reference.count && !(Cosine(subject, i, reference, i) < kOther);
  }
  return numbers;
}

std::string Sentence(const TokenMismatch& mismatch) {
  const std::int64_t extra = mismatch.extra_in_front;
  if (extra == 0) return fmt::format("by the rows of embed, another token stands at position {}", mismatch.position);
  return fmt::format("by the rows of embed, the subject has {} token{} {} in front{}", std::abs(extra),
                     std::abs(extra) == 1 ? "" : "s", extra > 0 ? "more" : "less",
                     std::abs(extra) != 1 ? "; the rest is the same"
                     : extra > 0          ? ", as if BOS were added by it only, or twice"
                                          : ", as if BOS were added by the reference only, or twice");
}

}  // namespace

std::optional<TokenMismatch> FindTokenMismatch(const Trace& reference, const Trace& subject) {
  const auto &ours = reference.header.tokens, &theirs = subject.header.tokens;
  if (!ours.empty() && !theirs.empty()) return CompareTokens(ours, theirs);
  const auto a = EmbeddingOf(reference), b = EmbeddingOf(subject);
  if (!a || !b || a->columns != b->columns) return std::nullopt;
  bool same = true;
  for (std::int64_t i = 0; i < std::min(a->count, b->count) && same; ++i) same = Cosine(*a, i, *b, i) >= kSame;
  const auto products = static_cast<double>(a->count) * static_cast<double>(a->count + b->count);
  if (same || products * static_cast<double>(a->columns) > kMostProducts) return std::nullopt;
  const Numbers numbers = NumberRows(*a, *b);
  if (2 * numbers.found <= b->count || numbers.only_near) return std::nullopt;
  auto mismatch = CompareTokens({numbers.reference}, {numbers.subject});
  if (!mismatch) return mismatch;
  mismatch->statement = Sentence(*mismatch);
  // The numbers are ours; a header on one side names the tokens of that side.
  const auto at = static_cast<std::size_t>(mismatch->position);
  const auto named = [at](const std::vector<std::vector<std::int64_t>>& tokens) -> std::optional<std::int64_t> {
    if (tokens.empty() || at >= tokens[0].size()) return std::nullopt;
    return tokens[0][at];
  };
  mismatch->reference = named(ours);
  mismatch->subject = named(theirs);
  return mismatch;
}

}  // namespace paritrace
