// The parts of the diagnosis that real engines cannot corner: thresholds, NaN, fitted numbers, and how sites are told.
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "diagnose/hypothesis.h"
#include "diagnose/verdict.h"
#include "report/site_names.h"

namespace paritrace {
namespace {

SiteStats Stats(double error, double floor, std::int64_t count, std::int64_t broken = 0) {
  SiteStats stats;
  stats.all = {.error = error, .sampled = floor, .count = count, .broken = broken};
  return stats;
}

TEST(JudgeSize, FlagsByRatio) {
  EXPECT_FALSE(JudgeSize(Stats(0, 0, 100)).flagged);
  EXPECT_FALSE(JudgeSize(Stats(9, 1, 10000)).flagged);
  EXPECT_TRUE(JudgeSize(Stats(30, 1, 10000)).flagged);
  EXPECT_TRUE(JudgeSize(Stats(1e-30, 0, 10000)).flagged);  // any error over no floor
}

TEST(JudgeSize, NaNAndMasksAreNeverWithinNoise) {
  EXPECT_TRUE(JudgeSize(Stats(0, 1, 100, 1)).flagged);
  EXPECT_TRUE(JudgeSize(Stats(std::nan(""), 1, 100)).flagged);
}

TEST(JudgeSize, OneTokenAmongManyIsFound) {
  SiteStats stats = Stats(100, 100, 1000);
  stats.by_token.assign(10, {.error = 1, .sampled = 10, .count = 100});
  stats.by_token[7].error = 5000;
  EXPECT_EQ(JudgeSize(stats).tokens, std::vector<std::int64_t>{7});
}

// Values that are next to nothing have a floor next to nothing; an error there is no defect of the site.
TEST(JudgeSize, TinyGroupsAreHeldAgainstTheSite) {
  SiteStats stats = Stats(100, 100, 1000);
  stats.by_channel.assign(10, {.error = 10, .sampled = 10, .count = 100});
  stats.by_channel[3] = {.error = 1e-6, .sampled = 1e-9, .count = 100};
  EXPECT_FALSE(JudgeSize(stats).flagged);
}

TEST(IsExplained, OnlyByEqualityWhereResultsAreCoarse) {
  SiteStats stats = Stats(1, 1, 10000);
  stats.exact = stats.one_ulp = 10000;
  EXPECT_TRUE(IsExplained(stats, Rounding::kBF16));
  stats.exact = 9900;
  stats.left = 1e-9;
  EXPECT_FALSE(IsExplained(stats, Rounding::kBF16));
}

TEST(NiceNumbers, FewestDigitsFirst) {
  EXPECT_EQ(NiceNumbers(0.0100004), (std::vector<double>{0.01, 0.0100004}));
  EXPECT_EQ(NiceNumbers(24999.7)[1], 25000);
  EXPECT_TRUE(NiceNumbers(std::nan("")).empty());
  EXPECT_TRUE(NiceNumbers(0).empty());
}

TEST(DescribeSites, GroupsRolesAndLayers) {
  EXPECT_EQ(DescribeSites({"layers.0.attn.q_rope", "layers.0.attn.k_rope", "layers.1.attn.q_rope",
                           "layers.1.attn.k_rope", "layers.2.attn.q_rope", "layers.2.attn.k_rope"}),
            "attn.q_rope and attn.k_rope of layers 0-2");
  EXPECT_EQ(DescribeSites({"final_norm"}), "final_norm");
  EXPECT_EQ(DescribeSites({"layers.3.mlp.up", "logits"}), "mlp.up of layer 3 and logits");
  EXPECT_EQ(DescribeNumbers({0, 1, 4, 6, 7, 8}), "0, 1, 4, 6-8");
}

TEST(RoleOf, LeavesOtherNamesAlone) {
  int layer = 7;
  EXPECT_EQ(RoleOf("layers.12.attn.q", &layer), "attn.q");
  EXPECT_EQ(layer, 12);
  EXPECT_EQ(RoleOf("layers.x.attn.q", &layer), "layers.x.attn.q");
  EXPECT_EQ(layer, -1);
  EXPECT_EQ(RoleOf("embed"), "embed");
}

}  // namespace
}  // namespace paritrace
