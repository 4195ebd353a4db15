#include "compare/align.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "memory_trace.h"

namespace paritrace {
namespace {

using testing_support::MemoryTrace;
using testing_support::Normal;

struct ShapeCase {
  const char* name;
  const char* site;
  Shape reference, subject;
  std::optional<std::int64_t> tokens;
  // Of the first reading; outer 0: no reading fits.
  std::int64_t outer, rows, inner;
  std::size_t readings;
};
void PrintTo(const ShapeCase& row, std::ostream* out) { *out << row.name; }
class ShapeTest : public ::testing::TestWithParam<ShapeCase> {};

TEST_P(ShapeTest, Reads) {
  const ShapeCase& row = GetParam();
  std::string reason;
  ShapePair shapes{.site = row.site, .reference = row.reference, .subject = row.subject};
  shapes.reference_tokens = shapes.subject_tokens = row.tokens;
  const std::vector<LayoutCandidate> readings = ReadShapes(shapes, reason);
  ASSERT_EQ(readings.size(), row.readings) << reason;
  if (row.readings == 0) {
    EXPECT_FALSE(reason.empty());
    return;
  }
  const PairLayout& layout = readings[0].layout;
  EXPECT_EQ(layout.outer, row.outer);
  EXPECT_EQ(layout.rows, row.rows);
  EXPECT_EQ(layout.inner, row.inner);
}

INSTANTIATE_TEST_SUITE_P(
    Table, ShapeTest,
    ::testing::Values(
        // Could be 8 heads of 8 tokens or 8 tokens of 8 heads: both readings are tried.
        ShapeCase{"CubeAgainstRows", "layers.0.attn.q", {8, 8, 8}, {8, 64}, 8, 1, 8, 64, 3},
        ShapeCase{"HeadMajorAgainstRows", "layers.0.attn.q", {4, 10, 16}, {10, 64}, 10, 4, 10, 16, 1},
        ShapeCase{"RowsAgainstHeadMajor", "layers.0.attn.q", {10, 64}, {1, 4, 10, 16}, {}, 4, 10, 16, 1},
        ShapeCase{"TokenMajorHeads", "layers.0.attn.q", {10, 4, 16}, {10, 64}, 10, 1, 10, 64, 1},
        ShapeCase{"BatchOfOne", "layers.0.out", {1, 10, 64}, {10, 64}, 10, 1, 10, 64, 1},
        ShapeCase{"BatchOfTwoAgainstPacked", "layers.0.out", {2, 5, 64}, {10, 64}, 10, 1, 10, 64, 1},
        ShapeCase{"SameHeadMajor", "layers.0.attn.q", {4, 10, 16}, {4, 10, 16}, 10, 4, 10, 16, 1},
        ShapeCase{"OneTokenWithoutItsAxis", "layers.0.out", {64}, {1, 64}, 1, 1, 1, 64, 1},
        ShapeCase{"OtherWidth", "layers.0.out", {10, 64}, {10, 128}, 10, 0, 0, 0, 0},
        ShapeCase{"OtherLength", "layers.0.out", {10, 64}, {9, 64}, {}, 0, 0, 0, 0},
        ShapeCase{"Transposed", "layers.0.attn.v", {10, 64}, {64, 10}, 10, 1, 10, 64, 1},
        ShapeCase{"HeadsTransposed", "layers.0.attn.k", {4, 10, 16}, {4, 16, 10}, 10, 4, 10, 16, 1},
        ShapeCase{"LastLogits", "logits", {10, 64}, {1, 64}, 10, 1, 1, 64, 1},
        ShapeCase{"Scalar", "x", {}, {1}, {}, 1, 1, 1, 1},
        ShapeCase{"ScoresPadded", "layers.0.attn.scores", {4, 10, 10}, {4, 10, 256}, 10, 4, 10, 10, 1},
        ShapeCase{"ScoresOfOtherHeads", "layers.0.attn.scores", {4, 10, 10}, {2, 10, 10}, 10, 0, 0, 0, 0},
        ShapeCase{"ScoresOfOneHead", "layers.0.attn.probs", {1, 10, 10}, {10, 10}, 10, 1, 10, 10, 1},
        ShapeCase{"ScoresOfAScalar", "layers.0.attn.probs", {}, {10, 10}, 10, 0, 0, 0, 0}),
    [](const auto& row) { return row.param.name; });

TEST(AlignTraces, OrderIsTheReferencesAndWhatItLacksStandsWhereTheSubjectRanIt) {
  MemoryTrace a, b;
  a.Add(0, "embed", {1}, {1})
      .Add(0, "layers.0.attn.k", {1}, {1})
      .Add(0, "layers.0.attn.q", {1}, {1})
      .Add(0, "logits", {1}, {1});
  b.Add(0, "embed", {1}, {1})
      .Add(0, "layers.0.attn.q", {1}, {1})
      .Add(0, "kq-0", {1}, {1}, DType::kF32, false)
      .Add(0, "logits", {1}, {1});
  std::vector<std::string> sites;
  for (const EntryPair& pair : AlignTraces(a.trace(), b.trace())) sites.push_back(pair.site);
  EXPECT_THAT(sites, ::testing::ElementsAre("embed", "layers.0.attn.k", "layers.0.attn.q", "kq-0", "logits"));
}

TEST(AlignTraces, WithoutOrderTheSitesRankDecides) {
  MemoryTrace a, b;
  a.Unordered()
      .Add(0, "logits", {1}, {1})
      .Add(0, "layers.10.out", {1}, {1})
      .Add(0, "layers.2.out", {1}, {1})
      .Add(0, "embed", {1}, {1});
  b.Unordered().Add(0, "embed", {1}, {1}).Add(0, "layers.2.attn.q", {1}, {1});
  std::vector<std::string> sites;
  for (const EntryPair& pair : AlignTraces(a.trace(), b.trace())) sites.push_back(pair.site);
  EXPECT_THAT(sites, ::testing::ElementsAre("embed", "layers.2.attn.q", "layers.2.out", "layers.10.out", "logits"));
}

TEST(AlignTraces, RepeatedNamesPairInTurn) {
  MemoryTrace a, b;
  a.Add(0, "norm", {1}, {1}, DType::kF32, false).Add(0, "norm", {2}, {1, 2}, DType::kF32, false);
  b.Add(0, "norm", {1}, {1}, DType::kF32, false)
      .Add(0, "norm", {2}, {1, 2}, DType::kF32, false)
      .Add(0, "norm", {1}, {1}, DType::kF32, false);
  const std::vector<EntryPair> pairs = AlignTraces(a.trace(), b.trace());
  ASSERT_EQ(pairs.size(), 3u);
  EXPECT_EQ(pairs[0].status, PairStatus::kPaired);
  EXPECT_EQ(pairs[1].status, PairStatus::kPaired);
  EXPECT_EQ(pairs[2].status, PairStatus::kMissingInReference);
}

// A name on one side and a site on the other are no pair, even where the texts are equal.
TEST(AlignTraces, SitesAndNamesStayApart) {
  MemoryTrace a, b;
  a.Add(0, "embed", {1}, {1});
  b.Add(0, "embed", {1}, {1}, DType::kF32, false);
  EXPECT_EQ(AlignTraces(a.trace(), b.trace()).size(), 2u);
}

TEST(AlignTraces, EachEntryStandsInARow) {
  MemoryTrace a, b;
  a.Step(0, 0, 4)
      .Step(1, 4, 1)
      .Add(0, "embed", {4, 2}, Normal(8, 1))
      .Add(1, "embed", {1, 2}, Normal(2, 1))
      .Add(1, "logits", {1, 2}, Normal(2, 1));
  b.Step(0, 0, 2)
      .Step(1, 2, 3)
      .Add(0, "embed", {2, 2}, Normal(4, 1))
      .Add(1, "embed", {3, 2}, Normal(6, 1))
      .Add(0, "final_norm", {2, 2}, Normal(4, 1));
  const std::vector<EntryPair> pairs = AlignTraces(a.trace(), b.trace());
  std::vector<const TraceEntry*> seen;
  for (const EntryPair& pair : pairs) {
    seen.push_back(pair.reference);
    seen.push_back(pair.subject);
  }
  for (const MemoryTrace* trace : {&a, &b}) {
    for (const TraceEntry& entry : trace->trace().entries) EXPECT_THAT(seen, ::testing::Contains(&entry)) << entry.name;
  }
  // [0,4) meets [0,2) and [2,5); [4,5) meets [2,5).
  EXPECT_EQ(pairs.size(), 5u);
}

TEST(AlignTraces, DecodeScoresMeetTheirRowOfThePrefill) {
  MemoryTrace prefill, decode;
  prefill.Step(0, 0, 3).Add(0, "layers.0.attn.scores", {1, 3, 3}, {0, -1e30, -1e30, 1, 2, -1e30, 3, 4, 5});
  decode.Step(0, 0, 1).Step(1, 1, 1).Add(1, "layers.0.attn.scores", {1, 1, 256}, Normal(256, 1));
  const std::vector<EntryPair> pairs = AlignTraces(prefill.trace(), decode.trace());
  ASSERT_EQ(pairs.size(), 1u);
  ASSERT_EQ(pairs[0].status, PairStatus::kPaired) << pairs[0].note;
  const PairLayout& layout = pairs[0].candidates[0].layout;
  EXPECT_EQ(layout.rows, 1);
  EXPECT_EQ(layout.inner, 2);  // keys 0 and 1
  EXPECT_EQ(layout.reference.base, 3);
  EXPECT_TRUE(layout.masked_scores);
}

TEST(WithRowOrder, TakesEachHeadApart) {
  LayoutCandidate plain;
  plain.layout = ContiguousLayout(1, 8);
  const auto turned = WithRowOrder(plain, 4, true);
  ASSERT_TRUE(turned);
  EXPECT_THAT(turned->layout.subject.order, ::testing::ElementsAre(0, 2, 1, 3, 4, 6, 5, 7));
  EXPECT_TRUE(turned->layout.reference.order.empty());
  EXPECT_FALSE(WithRowOrder(plain, 3, true));
  EXPECT_FALSE(WithRowOrder(plain, 16, true));
  EXPECT_FALSE(WithRowOrder(*turned, 4, true));
}

}  // namespace
}  // namespace paritrace
