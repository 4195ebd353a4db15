#include "compare/logits.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compare/growth.h"
#include "core/error.h"
#include "formats/vocabulary.h"
#include "memory_trace.h"
#include "report/growth_report.h"
#include "report/logits_report.h"

namespace paritrace {
namespace {

using ::testing::HasSubstr;
using testing_support::Disturbed;
using testing_support::MemoryTrace;
using testing_support::Normal;

LogitsPosition Rows(const std::vector<double>& a, const std::vector<double>& b, int top_k = 3) {
  return CompareLogitRows(a.data(), b.data(), static_cast<std::int64_t>(a.size()), top_k);
}

TEST(CompareLogitRows, ByHand) {
  const LogitsPosition same = Rows({1, 2, 3, 0}, {1, 2, 3, 0});
  EXPECT_EQ(same.kl_forward, 0);
  EXPECT_EQ(same.rank_in_subject, 1);
  EXPECT_EQ(same.top_k_shared, 1);
  EXPECT_EQ(same.margin_reference, 1);
  EXPECT_FALSE(same.greedy_differs);

  const LogitsPosition flipped = Rows({0, 2, 1, -1}, {0, 1, 2, -1});
  EXPECT_EQ(flipped.top_reference, 1);
  EXPECT_EQ(flipped.top_subject, 2);
  EXPECT_EQ(flipped.rank_in_subject, 2);
  EXPECT_EQ(flipped.margin_to_flip, 1);
  EXPECT_DOUBLE_EQ(flipped.l2, std::sqrt(2.0));
  // Two outcomes with p = 1/(1+e^-1): KL = (2p - 1) for logits exchanged, by hand; here two of four are exchanged.
  const double z = std::exp(0.0) + std::exp(2.0) + std::exp(1.0) + std::exp(-1.0);
  EXPECT_NEAR(flipped.kl_forward, (std::exp(2.0) - std::exp(1.0)) / z, 1e-15);
  EXPECT_NEAR(flipped.kl_backward, flipped.kl_forward, 1e-15);
}

TEST(CompareLogitRows, HugeLogitsDoNotOverflow) {
  const LogitsPosition position = Rows({1e5, 0, -1e5}, {1e5, 1, -1e5});
  EXPECT_TRUE(std::isfinite(position.kl_forward));
  EXPECT_EQ(position.kl_forward, 0);
}

TEST(CompareLogitRows, TiesGoToTheLowerId) {
  const LogitsPosition position = Rows({5, 5, 1}, {5, 5, 1});
  EXPECT_EQ(position.top_reference, 0);
  EXPECT_EQ(position.margin_reference, 0);
  const LogitsPosition lost = Rows({4, 5, 1}, {5, 5, 1});
  EXPECT_TRUE(lost.greedy_differs);
  EXPECT_EQ(lost.rank_in_subject, 2);
}

TEST(CompareLogitRows, NonfiniteAndEmptyAndSingle) {
  EXPECT_FALSE(Rows({1, NAN}, {1, 2}).finite);
  EXPECT_FALSE(Rows({1, 2}, {1, INFINITY}).finite);
  EXPECT_TRUE(Rows({}, {}).finite);
  EXPECT_EQ(Rows({3}, {4}).margin_reference, 0);
}

struct TracePair {
  MemoryTrace reference, subject;
};

TracePair Pair(const std::vector<double>& a, const std::vector<double>& b, std::int64_t vocabulary,
               const char* arithmetic) {
  TracePair pair;
  const auto rows = static_cast<std::int64_t>(a.size()) / vocabulary;
  pair.reference.Engine("hf", "torch-f32")
      .Add(0, "layers.0.out", {rows, 4}, Normal(rows * 4, 1))
      .Add(0, "logits", {rows, vocabulary}, a);
  pair.subject.Engine("hf", arithmetic)
      .Add(0, "layers.0.out", {rows, 4}, Normal(rows * 4, 1))
      .Add(0, "logits", {rows, vocabulary}, b);
  return pair;
}

TEST(CompareLogits, AFlipInsideTheNoiseIsABenignTie) {
  std::vector<double> a = Normal(3 * 64, 1), b = Disturbed(a, 3e-3, 2);
  // Position 1: two tokens lead by far and are nearly equal.
  a[64 + 10] = 5;
  a[64 + 20] = 4.99;
  b[64 + 10] = 4.99;
  b[64 + 20] = 5;
  const TracePair pair = Pair(a, b, 64, "torch-bf16");
  const LogitsResult result = CompareLogits(pair.reference.trace(), pair.subject.trace());
  EXPECT_EQ(result.verdict, Verdict::kWithinNoise);
  ASSERT_TRUE(result.first_greedy_difference);
  EXPECT_EQ(*result.first_greedy_difference, 1u);
  EXPECT_TRUE(result.positions[1].benign_tie);
  EXPECT_THAT(LogitsToDocument(result, {}, 0).sentence, HasSubstr("a benign tie"));
  EXPECT_EQ(LogitsToChecks(result)[1].outcome, Check::Outcome::kPassed);
}

TEST(CompareLogits, AFlipBeyondItIsNot) {
  std::vector<double> a = Normal(3 * 64, 1), b = a;
  a[64 + 10] = b[64 + 20] = 9;
  const TracePair pair = Pair(a, b, 64, "torch-f32");
  const LogitsResult result = CompareLogits(pair.reference.trace(), pair.subject.trace());
  EXPECT_EQ(result.verdict, Verdict::kDiverged);
  EXPECT_EQ(result.first_diverged, 1u);
  EXPECT_FALSE(result.positions[1].benign_tie);
  EXPECT_DOUBLE_EQ(result.TopAgreement(), 2.0 / 3);
  const auto json = LogitsToJson(result, Vocabulary({"a", "b"}));
  EXPECT_EQ(json["verdict"], "diverged");
  EXPECT_EQ(json["first_divergence"]["position"], 1);
  EXPECT_EQ(json["positions"].size(), 3u);
  EXPECT_EQ(json["positions"][1]["status"], "diverged");
}

TEST(CompareLogits, WithoutLogitsThereIsNothingToCompare) {
  MemoryTrace a, b;
  a.Add(0, "embed", {1, 2}, {1, 2});
  b.Add(0, "embed", {1, 2}, {1, 2});
  const LogitsResult result = CompareLogits(a.trace(), b.trace());
  EXPECT_EQ(result.verdict, Verdict::kIncomparable);
  EXPECT_FALSE(result.reason.empty());
  EXPECT_THROW((void)CompareLogits(a.trace(), b.trace(), 0), UsageError);
}

class VocabularyTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& text) {
    std::ofstream(path_) << text;
    return path_.string();
  }
  void TearDown() override { std::filesystem::remove(path_); }

 private:
  std::filesystem::path path_ =
      std::filesystem::temp_directory_path() /
      ("paritrace-" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()) + ".json");
};

TEST_F(VocabularyTest, ByteLevel) {
  const Vocabulary vocabulary = LoadVocabulary(Write(
      R"({"model":{"type":"BPE","vocab":{"Ġonce":0,"Ċ":1,"Ã©":2}},"added_tokens":[{"id":3,"content":"<|Ġend|>"}]})"));
  EXPECT_EQ(vocabulary.Text(0), " once");
  EXPECT_EQ(vocabulary.Text(1), "\n");
  EXPECT_EQ(vocabulary.Text(2), "é");
  EXPECT_EQ(vocabulary.Text(3), "<|Ġend|>");
  EXPECT_EQ(vocabulary.Name(1), "1 \"\\n\"");
  EXPECT_EQ(vocabulary.Name(99), "99");
  EXPECT_EQ(vocabulary.Name(-1), "-1");
}

TEST_F(VocabularyTest, SentencePieceAsAList) {
  const Vocabulary vocabulary =
      LoadVocabulary(Write(R"({"model":{"type":"Unigram","vocab":[["<s>",0],["▁once▁upon",-1],["<0x0A>",-2]]}})"));
  EXPECT_EQ(vocabulary.Text(1), " once upon");
  EXPECT_EQ(vocabulary.Text(2), "\n");
}

TEST_F(VocabularyTest, BrokenFilesSayWhatIsWrong) {
  EXPECT_THROW((void)LoadVocabulary(Write("{}")), FormatError);
  EXPECT_THROW((void)LoadVocabulary(Write("[1]")), FormatError);
  EXPECT_THROW((void)LoadVocabulary(Write(R"({"model":{"vocab":7}})")), FormatError);
  EXPECT_THROW((void)LoadVocabulary(Write(R"({"model":{"vocab":{"a":"b"}}})")), FormatError);
  EXPECT_THROW((void)LoadVocabulary(Write(R"({"model":{"vocab":{"a":99999999999}}})")), FormatError);
  EXPECT_THROW((void)LoadVocabulary(Write(R"({"model":{"vocab":[[1,2]]}})")), FormatError);
  EXPECT_THROW((void)LoadVocabulary("/nonexistent/tokenizer.json"), UsageError);
}

Trend Line(const std::vector<double>& errors) {
  Trend trend;
  for (std::size_t i = 0; i < errors.size(); ++i) trend.points.push_back({static_cast<std::int64_t>(i), errors[i]});
  FitTrend(trend);
  return trend;
}

TEST(FitTrend, TwoPointsProveNothing) {
  // The correlation over two points is always one.
  const Trend trend = Line({1, 2});
  EXPECT_EQ(trend.p_value, 1);
  EXPECT_FALSE(trend.enough);
  EXPECT_FALSE(Line({1, 2, 3, 4}).IsTrend());
  EXPECT_FALSE(Line({}).enough);
}

TEST(FitTrend, AStraightLine) {
  const Trend five = Line({1, 2, 4, 8, 16});
  EXPECT_NEAR(five.slope, std::log10(2), 1e-12);
  EXPECT_NEAR(five.p_value, 2.0 / 120, 1e-12);
  EXPECT_TRUE(five.IsTrend());
  const Trend twenty = Line([] {
    std::vector<double> errors;
    for (int i = 0; i < 20; ++i) errors.push_back(std::pow(1.3, i));
    return errors;
  }());
  EXPECT_EQ(twenty.p_value, 1e-4);
}

TEST(FitTrend, NoiseIsNoTrend) {
  int trends = 0;
  for (unsigned seed = 0; seed < 40; ++seed) {
    std::vector<double> errors = Normal(12, seed);
    for (double& error : errors) error = std::exp(error);
    trends += Line(errors).IsTrend();
  }
  EXPECT_LE(trends, 6);  // 5 % of 40 are 2
}

TEST(CompareGrowth, OverLayersAndPositions) {
  MemoryTrace a, b;
  a.Engine("hf", "torch-f32");
  b.Engine("hf", "torch-bf16");
  for (unsigned layer = 0; layer < 6; ++layer) {
    const std::vector<double> values = Normal(8 * 64, layer);
    const std::string site = "layers." + std::to_string(layer) + ".out";
    a.Add(0, site, {8, 64}, values);
    b.Add(0, site, {8, 64}, Disturbed(values, 1e-4 * std::pow(1.5, layer), 50 + layer));
  }
  const GrowthResult result = CompareGrowth(a.trace(), b.trace());
  EXPECT_EQ(result.by_layer.site, "layers.*.out");
  EXPECT_TRUE(result.by_layer.IsTrend());
  EXPECT_NEAR(std::pow(10, result.by_layer.slope), 1.5, 0.05);
  EXPECT_EQ(result.by_position.site, "layers.5.out");
  EXPECT_EQ(result.by_position.points.size(), 8u);
  EXPECT_FALSE(result.by_position.IsTrend());
  const Document document = GrowthToDocument(result, 0);
  EXPECT_THAT(document.sentence, HasSubstr("grows by a factor of 1.5"));
  EXPECT_THAT(document.sentence, HasSubstr("over positions there is no trend"));
  EXPECT_EQ(GrowthToJson(result)["by_layer"]["points"].size(), 6u);
}

}  // namespace
}  // namespace paritrace
