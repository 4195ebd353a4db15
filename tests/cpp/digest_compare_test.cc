#include "compare/digest_compare.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <algorithm>

#include <gtest/gtest.h>

#include "compare/diff.h"
#include "core/hash.h"
#include "memory_trace.h"
#include "report/diff_json.h"
#include "trace/digest.h"
#include "trace/tensor_stats.h"

namespace paritrace {
namespace {

using testing_support::Disturbed;
using testing_support::MemoryTrace;
using testing_support::Normal;

// The same trace as `paritrace digest` leaves it.
void TurnIntoDigest(Trace& trace) {
  for (TraceEntry& entry : trace.entries) {
    nlohmann::ordered_json index = {{"stats", TensorStats(entry.tensor, entry.site)}};
    AddTo(index, DigestOf(entry.tensor, entry.site));
    entry.hash = HashBytes(entry.tensor.bytes);
    entry.stats = index["stats"];
    entry.sketch = index.value("sketch", "");
    entry.tensor.bytes = {};
  }
}

constexpr std::int64_t kTokens = 16, kWidth = 512;

MemoryTrace TraceOf(const std::vector<double>& values, const Shape& shape = {kTokens, kWidth}) {
  MemoryTrace trace;
  trace.Engine("hf", "f32").Step(0, 0, kTokens).Add(0, "layers.0.mlp.out", shape, values);
  return trace;
}

struct DigestSides {
  const char* name;
  bool reference, subject;  // is a digest
};
class DigestDiffTest : public ::testing::TestWithParam<DigestSides> {
 protected:
  static SiteDiff Compare(MemoryTrace& reference, MemoryTrace& subject) {
    if (GetParam().reference) TurnIntoDigest(reference.trace());
    if (GetParam().subject) TurnIntoDigest(subject.trace());
    return Diff(reference.trace(), subject.trace()).sites.at(0);
  }
};
INSTANTIATE_TEST_SUITE_P(Sides, DigestDiffTest,
                         ::testing::Values(DigestSides{"Both", true, true}, DigestSides{"Reference", true, false},
                                           DigestSides{"Subject", false, true}),
                         [](const auto& row) { return row.param.name; });

TEST_P(DigestDiffTest, EqualHashesAreIdentical) {
  auto a = TraceOf(Normal(kTokens * kWidth, 1)), b = TraceOf(Normal(kTokens * kWidth, 1));
  EXPECT_EQ(Compare(a, b).status, SiteStatus::kIdentical);
}

TEST_P(DigestDiffTest, RoundingIsWithinNoise) {
  const auto values = Normal(kTokens * kWidth, 1);
  auto a = TraceOf(values), b = TraceOf(Disturbed(values, 1e-7, 2));
  const SiteDiff site = Compare(a, b);
  EXPECT_EQ(site.status, SiteStatus::kWithinNoise);
  ASSERT_TRUE(site.estimate);
  EXPECT_FALSE(site.estimate->by_norms);
}

TEST_P(DigestDiffTest, AWrongTokenIsFoundWhereItIs) {
  const auto values = Normal(kTokens * kWidth, 1);
  auto wrong = values;
  double truth = 0, energy = 0;
  for (std::int64_t i = 5 * kWidth; i < 6 * kWidth; ++i) wrong[static_cast<std::size_t>(i)] += i % 2 == 0 ? 0.1 : -0.1;
  for (std::size_t i = 0; i < values.size(); ++i) {
    truth += (wrong[i] - values[i]) * (wrong[i] - values[i]);
    energy += values[i] * values[i];
  }
  auto a = TraceOf(values), b = TraceOf(wrong);
  const SiteDiff site = Compare(a, b);
  EXPECT_EQ(site.status, SiteStatus::kDiverged);
  EXPECT_EQ(site.diverged_position, 5);
  ASSERT_TRUE(site.estimate);
  EXPECT_LE(site.estimate->nmse.low, truth / energy);
  EXPECT_GE(site.estimate->nmse.high, truth / energy);
  EXPECT_LE(site.estimate->max_abs_low, 0.1 + 1e-6);
  EXPECT_GE(site.estimate->max_abs_high, 0.1 - 1e-6);
}

TEST_P(DigestDiffTest, ANanOnOneSideDiverges) {
  auto values = Normal(kTokens * kWidth, 1);
  auto a = TraceOf(values);
  values[7] = std::numeric_limits<double>::quiet_NaN();
  auto b = TraceOf(values);
  const SiteDiff site = Compare(a, b);
  EXPECT_EQ(site.status, SiteStatus::kDiverged);
  EXPECT_EQ(site.stats.mismatches, 1);
}

TEST_P(DigestDiffTest, TheJsonHasTheInterval) {
  const auto values = Normal(kTokens * kWidth, 1);
  auto a = TraceOf(values), b = TraceOf(Disturbed(values, 1e-2, 2));
  if (GetParam().reference) TurnIntoDigest(a.trace());
  if (GetParam().subject) TurnIntoDigest(b.trace());
  const auto json = DiffToJson(Diff(a.trace(), b.trace()));
  const auto& site = json["sites"][0];
  EXPECT_EQ(site["status"], "diverged");
  EXPECT_EQ(site["estimated"], true);
  EXPECT_LT(site["nmse_interval"][0], site["nmse"]);
  EXPECT_GT(site["nmse_interval"][1], site["nmse"]);
  EXPECT_TRUE(site["max_abs"].is_null());
  EXPECT_EQ(site["per_position"].size(), static_cast<std::size_t>(kTokens));
}

// Heads first in one digest, tokens first in the other: their sketches cannot meet, the norms of their tokens can.
TEST(DigestCompareTest, OtherLayoutsMeetInTheirNorms) {
  const std::int64_t heads = 4, dim = kWidth / heads;
  const auto values = Normal(kTokens * kWidth, 1);
  const auto by_head = [&](double factor) {
    std::vector<double> out(values.size());
    for (std::int64_t t = 0; t < kTokens; ++t)
      for (std::int64_t h = 0; h < heads; ++h)
        for (std::int64_t i = 0; i < dim; ++i)
          out[static_cast<std::size_t>((h * kTokens + t) * dim + i)] =
              values[static_cast<std::size_t>(t * kWidth + h * dim + i)] * factor;
    return out;
  };
  for (const double factor : {1.0, 1.5}) {
    auto a = TraceOf(values), b = TraceOf(by_head(factor), {heads, kTokens, dim});
    TurnIntoDigest(a.trace());
    TurnIntoDigest(b.trace());
    const SiteDiff site = Diff(a.trace(), b.trace()).sites.at(0);
    ASSERT_TRUE(site.estimate);
    EXPECT_TRUE(site.estimate->by_norms);
    EXPECT_EQ(site.status, factor == 1 ? SiteStatus::kWithinNoise : SiteStatus::kDiverged);
  }
  auto a = TraceOf(values), b = TraceOf(by_head(1), {heads, kTokens, dim});
  TurnIntoDigest(b.trace());
  const SiteDiff site = Diff(a.trace(), b.trace()).sites.at(0);
  ASSERT_TRUE(site.estimate);
  EXPECT_FALSE(site.estimate->by_norms) << "values are sketched in the digest's layout";
  EXPECT_EQ(site.status, SiteStatus::kWithinNoise);
}

TEST(DigestCompareTest, WithoutSketchOrNormsItIsMissing) {
  auto a = TraceOf(Normal(kTokens * kWidth, 1)), b = TraceOf(Normal(kTokens * kWidth, 2));
  TurnIntoDigest(b.trace());
  b.trace().entries[0].stats = nullptr;
  const SiteDiff site = Diff(a.trace(), b.trace()).sites.at(0);
  EXPECT_EQ(site.status, SiteStatus::kMissingInSubject);
  EXPECT_FALSE(site.compared);
}

// Minimum, maximum, mean and rms of other values contradict; those of the same values in another order show nothing.
TEST(DigestCompareTest, StatisticsAloneOnlyContradict) {
  const auto values = Normal(kTokens * kWidth, 1);
  auto reversed = values;
  std::reverse(reversed.begin(), reversed.end());
  for (const bool same : {true, false}) {
    auto a = TraceOf(values), b = TraceOf(same ? reversed : Normal(kTokens * kWidth, 2));
    TurnIntoDigest(b.trace());
    b.trace().entries[0].stats.erase("position_rms");
    const DiffResult diff = Diff(a.trace(), b.trace());
    EXPECT_EQ(diff.verdict, same ? Verdict::kIncomparable : Verdict::kDiverged);
    EXPECT_EQ(diff.sites.at(0).undecided, same);
    EXPECT_FALSE(diff.sites.at(0).compared);
  }
}

TEST(DigestCompareTest, AShapeThatClaimsTooMuchIsMissing) {
  const Shape shape = {std::int64_t{1} << 58, 1};
  MemoryTrace a, b;
  a.AddDigest(0, "embed", shape, "xxh3:1");
  b.AddDigest(0, "embed", shape, "xxh3:2");
  EXPECT_FALSE(Diff(a.trace(), b.trace()).sites.at(0).compared);
}

}  // namespace
}  // namespace paritrace
