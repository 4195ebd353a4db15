// The parts of a diagnosis without weights that real engines cannot corner: the fit of a norm, the floor of a product, and tokens
// read off embedding rows.
#include <cmath>

#include <gtest/gtest.h>

#include "compare/token_rows.h"
#include "diagnose/fit_reference.h"
#include "diagnose/product_judge.h"
#include "diagnose/verdict.h"
#include "memory_trace.h"

namespace paritrace {
namespace {

using testing_support::Disturbed;
using testing_support::MemoryTrace;
using testing_support::Normal;

Value Rows(std::int64_t rows, std::int64_t cols, unsigned seed) {
  Value value({rows, cols});
  value.data = Normal(rows * cols, seed);
  return value;
}

RecordedSite Recorded(Value value) {
  RecordedSite site;
  site.token_known.assign(static_cast<std::size_t>(value.rows()), true);
  site.value = std::move(value);
  return site;
}

Value RmsNormed(const Value& x, const std::vector<double>& weight, double eps) {
  Value y = x;
  for (std::int64_t t = 0; t < x.rows(); ++t) {
    double square = 0;
    for (const double v : x.row(t)) square += v * v / static_cast<double>(x.cols());
    for (std::size_t c = 0; c < weight.size(); ++c) y.row(t)[c] = x.row(t)[c] / std::sqrt(square + eps) * weight[c];
  }
  return y;
}

TEST(FitNorm, FindsKindAndWeights) {
  const Value x = Rows(6, 32, 1);
  const std::vector<double> weight = Disturbed(std::vector<double>(32, 1.0), 0.3, 2);
  const auto fitted = FitNorm(x, Recorded(RmsNormed(x, weight, 1e-5)), 0);
  ASSERT_TRUE(fitted);
  EXPECT_EQ(fitted->op.kind, NormKind::kRms);
  for (std::size_t c = 0; c < weight.size(); ++c) EXPECT_NEAR(fitted->weight[c], weight[c], 1e-6);
  EXPECT_LT(fitted->doubt, 1e-6);
}

TEST(FitNorm, DoubtIsWhatTheReferencesRoundingLeaves) {
  const Value x = Rows(20, 64, 3);
  Value y = RmsNormed(x, std::vector<double>(64, 1.0), 1e-5);
  y.data = Disturbed(y.data, 1e-3, 4);
  const auto fitted = FitNorm(x, Recorded(std::move(y)), 0);
  ASSERT_TRUE(fitted);
  // One number a channel from 20 rows: sqrt(1 / 19) of the error passes on.
  EXPECT_NEAR(fitted->doubt, 1e-3 / std::sqrt(19.0), 1e-4);
}

TEST(FitNorm, OneRowProvesNothing) {
  const Value x = Rows(1, 32, 5);
  EXPECT_FALSE(FitNorm(x, Recorded(RmsNormed(x, std::vector<double>(32, 1.0), 1e-5)), 0));
}

TEST(FitNorm, RowsThatAreNotFiniteAreLeftOut) {
  const Value x = Rows(5, 16, 6);
  Value y = RmsNormed(x, std::vector<double>(16, 2.0), 1e-5);
  y.row(2)[3] = std::nan("");
  const auto fitted = FitNorm(x, Recorded(std::move(y)), 0);
  ASSERT_TRUE(fitted);
  EXPECT_NEAR(fitted->weight[3], 2.0, 1e-6);
}

// y = x W^T with W a fixed random matrix.
Value Product(const Value& x, std::int64_t outputs) {
  const std::vector<double> w = Normal(outputs * x.cols(), 77, 1 / std::sqrt(static_cast<double>(x.cols())));
  Value y({x.rows(), outputs});
  for (std::int64_t t = 0; t < x.rows(); ++t) {
    for (std::int64_t o = 0; o < outputs; ++o) {
      for (std::int64_t c = 0; c < x.cols(); ++c)
        y.row(t)[static_cast<std::size_t>(o)] +=
            w[static_cast<std::size_t>(o * x.cols() + c)] * x.row(t)[static_cast<std::size_t>(c)];
    }
  }
  return y;
}

struct Sides {
  Value x_ref, x_sub;
  RecordedSite y_ref, y_sub;
  [[nodiscard]] std::optional<SiteStats> Measure(double noise) const {
    return MeasureProduct({.reference_in = &x_ref,
                           .subject_in = &x_sub,
                           .reference_out = y_ref,
                           .subject_out = y_sub,
                           .reference_noise = noise,
                           .subject_noise = noise});
  }
};

Sides MakeSides(double apart) {
  Sides sides;
  sides.x_ref = Rows(10, 48, 8);
  sides.x_sub = sides.x_ref;
  sides.x_sub.data = Disturbed(sides.x_sub.data, apart, 9);
  sides.y_ref = Recorded(Product(sides.x_ref, 24));
  sides.y_sub = Recorded(Product(sides.x_sub, 24));
  return sides;
}

TEST(MeasureProduct, WhatTheInputsCarryIsNoDefect) {
  for (const double apart : {0.0, 1e-6, 1e-3, 2e-2}) {
    const auto stats = MakeSides(apart).Measure(1e-7);
    ASSERT_TRUE(stats) << apart;
    EXPECT_FALSE(JudgeSize(*stats).flagged) << apart << ": " << stats->all.ratio();
  }
}

TEST(MeasureProduct, OneWrongChannelIsFound) {
  Sides sides = MakeSides(0);
  for (std::int64_t t = 0; t < 10; ++t) sides.y_sub.value.row(t)[7] *= 1.01;
  const auto stats = sides.Measure(1e-7);
  ASSERT_TRUE(stats);
  EXPECT_EQ(JudgeSize(*stats).channels, std::vector<std::int64_t>{7});
}

TEST(MeasureProduct, NothingIsSaidOfInputsThatAreFarApart) { EXPECT_FALSE(MakeSides(0.5).Measure(1e-7)); }

TEST(MeasureProduct, NaNIsNeverWithinNoise) {
  Sides sides = MakeSides(0);
  sides.y_sub.value.row(3)[2] = std::nan("");
  const auto stats = sides.Measure(1e-7);
  ASSERT_TRUE(stats);
  EXPECT_TRUE(JudgeSize(*stats).flagged);
}

// ---- tokens by the rows of embed ----

std::vector<double> Embedded(const std::vector<int>& tokens) {
  std::vector<double> rows;
  for (const int token : tokens) {
    const std::vector<double> row = Normal(32, static_cast<unsigned>(100 + token));
    rows.insert(rows.end(), row.begin(), row.end());
  }
  return rows;
}

std::optional<TokenMismatch> Mismatch(const std::vector<int>& reference, const std::vector<double>& subject) {
  MemoryTrace ours, theirs;
  ours.Add(0, "embed", {static_cast<std::int64_t>(reference.size()), 32}, Embedded(reference));
  theirs.Add(0, "embed", {static_cast<std::int64_t>(subject.size()) / 32, 32}, subject);
  return FindTokenMismatch(ours.trace(), theirs.trace());
}

TEST(FindTokenMismatch, ByTheRowsOfEmbed) {
  const std::vector<int> text = {5, 6, 7, 5, 8, 9};
  EXPECT_FALSE(Mismatch(text, Embedded(text)));
  EXPECT_EQ(Mismatch(text, Embedded({1, 5, 6, 7, 5, 8, 9}))->cause, "tokens.bos");
  EXPECT_EQ(Mismatch(text, Embedded({6, 7, 5, 8, 9}))->cause, "tokens.bos");
  EXPECT_EQ(Mismatch(text, Embedded({1, 1, 1, 5, 6, 7, 5, 8, 9}))->cause, "tokens.shift");
  const auto other = Mismatch(text, Embedded({5, 6, 7, 4, 8, 9}));
  ASSERT_TRUE(other);
  EXPECT_EQ(other->cause, "tokens.ids");
  EXPECT_EQ(other->position, 3);
  EXPECT_FALSE(other->reference);  // no header names the ids
}

TEST(FindTokenMismatch, MistakesOfTheEmbeddingAreNoOtherTokens) {
  const std::vector<int> text = {5, 6, 7, 5, 8, 9};
  std::vector<double> scaled = Embedded(text), disturbed = Disturbed(Embedded(text), 0.3, 3),
                      unrelated = Normal(6 * 32, 4);
  for (double& value : scaled) value *= 45;
  EXPECT_FALSE(Mismatch(text, scaled));
  EXPECT_FALSE(Mismatch(text, disturbed));
  EXPECT_FALSE(Mismatch(text, unrelated));
  std::vector<double> broken = Embedded(text);
  broken[40] = std::nan("");
  EXPECT_FALSE(Mismatch(text, broken));
}

}  // namespace
}  // namespace paritrace
