#include "diagnose/site_view.h"

#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace paritrace {
namespace {

using ::testing::ElementsAre;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInfinity = std::numeric_limits<double>::infinity();

struct Made {
  Graph graph;
  RecordedSite recorded;
  Value expected;
  SiteStats stats;
  std::vector<ErrorSums> cells;
};

// A projection of `tokens` rows of `width` values; the model says 1, 2, 3, … and the engine recorded exactly that.
Made MakeSite(std::int64_t tokens, std::int64_t width) {
  Made made;
  made.graph.Add({.site = "layers.0.attn.q", .layer = 0, .op = LinearOp{}});
  made.expected = Value({tokens, width});
  for (std::size_t i = 0; i < made.expected.data.size(); ++i) made.expected.data[i] = static_cast<double>(i + 1);
  made.recorded.value = made.expected;
  made.recorded.token_known.assign(static_cast<std::size_t>(tokens), true);
  made.stats.by_token.assign(static_cast<std::size_t>(tokens),
                             {.rounding = static_cast<double>(width), .count = width});
  made.stats.all = {.rounding = static_cast<double>(tokens * width), .count = tokens * width};
  return made;
}

SiteView ViewOf(const Made& made, const ViewLimits& limits) {
  return MakeSiteView(made.graph.nodes[0], made.recorded, made.expected, made.stats, made.cells, limits);
}

TEST(SiteView, SamplesTheLargestErrorsFirstAndNoValueTwice) {
  Made made = MakeSite(10, 100);
  made.recorded.value.data[707] += 5;
  made.recorded.value.data[3] = kNan;  // recorded NaN where the model is finite: the largest error of all
  const SiteView view = ViewOf(made, {.samples = 40});
  EXPECT_EQ(view.values, 1000);
  EXPECT_EQ(view.worst, 10);
  ASSERT_GT(view.rows.size(), 30U);
  EXPECT_LE(view.rows.size(), 40U);
  EXPECT_EQ(view.rows[0], 0U);
  EXPECT_EQ(view.columns[0], 3U);
  EXPECT_TRUE(std::isnan(view.recorded[0]));
  EXPECT_EQ(view.rows[1], 7U);
  EXPECT_EQ(view.columns[1], 7U);
  EXPECT_EQ(view.recorded[1] - view.expected[1], 5.0F);
  std::set<std::pair<std::uint32_t, std::uint32_t>> places;
  for (std::size_t i = 0; i < view.rows.size(); ++i) places.emplace(view.rows[i], view.columns[i]);
  EXPECT_EQ(places.size(), view.rows.size());
}

TEST(SiteView, LeavesOutWhatWasNotRecordedOrCannotBeJudged) {
  Made made = MakeSite(3, 4);
  made.recorded.token_known[1] = false;
  made.expected.data[0] = kNan;
  made.stats.by_token[1].count = 0;
  const SiteView view = ViewOf(made, {});
  EXPECT_EQ(view.values, 7);
  for (const std::uint32_t row : view.rows) EXPECT_NE(row, 1U);
  EXPECT_TRUE(std::isnan(view.token_error[1]));
  EXPECT_EQ(view.token_error[0], 0.0F);
  EXPECT_EQ(view.token_floor[0], 1.0F);
}

TEST(SiteView, TokensThatShareAnEntryShowTheWorst) {
  Made made = MakeSite(10, 4);
  made.stats.by_token[4].error = 36;
  made.stats.by_token[9].broken = 1;
  const SiteView view = ViewOf(made, {.tokens = 4});
  EXPECT_EQ(view.token_bin, 3);
  EXPECT_THAT(view.token_error, ElementsAre(0, 3, 0, kInfinity));
}

TEST(SiteView, CountsEveryFiniteValue) {
  Made made = MakeSite(10, 10);
  made.recorded.value.data[5] = kInfinity;
  const SiteView view = ViewOf(made, {});
  std::int64_t expected = 0, recorded = 0;
  for (const std::int64_t n : view.expected_counts) expected += n;
  for (const std::int64_t n : view.recorded_counts) recorded += n;
  EXPECT_EQ(expected, 100);
  EXPECT_EQ(recorded, 99);
  EXPECT_EQ(view.outside, 1);
  EXPECT_EQ(view.low, 1);
  EXPECT_EQ(view.high, 100);
}

TEST(SiteView, HeadsAreHeldAgainstTheirOwnFloor) {
  Made made = MakeSite(4, 6);
  made.cells.assign(8, {.error = 4, .rounding = 1, .count = 3});  // [2 heads, 4 tokens]
  made.cells[1] = {.error = 4e6, .rounding = 1e6, .count = 3};    // large values: a large error, and a large floor
  made.cells[6].broken = 1;
  made.cells[7].count = 0;
  const SiteView view = ViewOf(made, {});
  EXPECT_EQ(view.heads, 2);
  ASSERT_EQ(view.head_ratio.size(), 8U);
  EXPECT_EQ(view.head_ratio[0], 2.0F);
  EXPECT_EQ(view.head_ratio[1], 2.0F);
  EXPECT_TRUE(std::isinf(view.head_ratio[6]));
  EXPECT_TRUE(std::isnan(view.head_ratio[7]));
  const SiteView binned = ViewOf(made, {.cells = 4});
  EXPECT_EQ(binned.head_bin, 2);
  EXPECT_THAT(binned.head_ratio, ElementsAre(2, 2, 2, kInfinity));
}

TEST(SiteView, MaskedScoresAreNoValues) {
  Made made;
  made.graph.Add({.site = "layers.0.attn.probs", .layer = 0, .op = SoftmaxOp{}});
  made.expected = Value({2, 3, 3});
  made.expected.data = {1, 0, 0, .5, .5, 0, .4, .3, .3, 1, 0, 0, .5, .5, 0, .4, .3, .3};
  made.recorded.value = made.expected;
  made.recorded.token_known = {true, true, true};
  made.stats.by_token.assign(3, {.count = 1});
  made.stats.all = {.count = 6};
  EXPECT_EQ(ViewOf(made, {}).values, 12);
}

TEST(SiteView, LimitsShrinkWithTheNumberOfSites) {
  EXPECT_EQ(LimitsFor(1).samples, 256);
  EXPECT_TRUE(LimitsFor(400).histogram);
  EXPECT_LT(LimitsFor(2000).samples, 64);
  EXPECT_FALSE(LimitsFor(10'000).histogram);
  EXPECT_EQ(LimitsFor(1'000'000).samples, 4);
}

}  // namespace
}  // namespace paritrace
