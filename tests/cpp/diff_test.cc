#include "compare/diff.h"

#include <atomic>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "memory_trace.h"

namespace paritrace {
namespace {

using testing_support::Disturbed;
using testing_support::MemoryTrace;
using testing_support::Normal;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

const SiteDiff& At(const DiffResult& result, std::string_view site, int step = 0) {
  for (const SiteDiff& diff : result.sites) {
    if (diff.site == site && diff.step == step) return diff;
  }
  throw std::runtime_error("no " + std::string(site));
}

// What holds for every result, whatever was compared.
void ExpectInvariants(const DiffResult& result) {
  EXPECT_EQ(result.Counts().Total(), static_cast<std::int64_t>(result.sites.size()));
  for (const SiteDiff& site : result.sites) {
    EXPECT_EQ(site.status == SiteStatus::kDiverged, site.diverged_position.has_value()) << site.site;
    EXPECT_TRUE(site.status != SiteStatus::kIdentical || !site.compared || site.stats.AllEqual()) << site.site;
  }
  EXPECT_EQ(result.first_divergence.has_value(), result.verdict == Verdict::kDiverged);
}

TEST(Diff, IdenticalTraces) {
  MemoryTrace a, b;
  for (MemoryTrace* trace : {&a, &b})
    trace->Add(0, "embed", {3, 8}, Normal(24, 1)).Add(0, "logits", {3, 16}, Normal(48, 2));
  const DiffResult result = Diff(a.trace(), b.trace());
  EXPECT_EQ(result.verdict, Verdict::kIdentical);
  EXPECT_EQ(result.Counts().identical, 2);
  ExpectInvariants(result);
}

TEST(Diff, RoundingIsWithinNoiseAndWhatIsLargerIsNot) {
  MemoryTrace a, b;
  a.Engine("hf", "torch-f32")
      .Add(0, "layers.0.attn.norm", {4, 64}, Normal(256, 1))
      .Add(0, "layers.0.mlp.out", {4, 64}, Normal(256, 2));
  b.Engine("hf", "torch-bf16")
      .Add(0, "layers.0.attn.norm", {4, 64}, Disturbed(Normal(256, 1), 1.6e-3, 9))
      .Add(0, "layers.0.mlp.out", {4, 64}, Disturbed(Normal(256, 2), 0.5, 9));
  const DiffResult result = Diff(a.trace(), b.trace());
  EXPECT_EQ(At(result, "layers.0.attn.norm").status, SiteStatus::kWithinNoise);
  EXPECT_EQ(At(result, "layers.0.mlp.out").status, SiteStatus::kDiverged);
  ASSERT_TRUE(result.first_divergence);
  EXPECT_EQ(result.first_divergence->site, "layers.0.mlp.out");
  ExpectInvariants(result);
}

// The same error is noise for bf16 and a mistake for f32.
TEST(Diff, WhatIsNoiseDependsOnTheArithmetic) {
  const auto verdict = [](const char* arithmetic) {
    MemoryTrace a, b;
    a.Engine("hf", "f64").Add(0, "layers.0.attn.norm", {4, 64}, Normal(256, 1));
    b.Engine("mine", arithmetic).Add(0, "layers.0.attn.norm", {4, 64}, Disturbed(Normal(256, 1), 1.6e-3, 9));
    return Diff(a.trace(), b.trace()).verdict;
  };
  EXPECT_EQ(verdict("torch-bf16"), Verdict::kWithinNoise);
  EXPECT_EQ(verdict("torch-f32"), Verdict::kDiverged);
}

TEST(Diff, ArithmeticIsInferredFromTheGridOfTheValues) {
  const auto inferred = [](DType stored) {
    MemoryTrace rounded;
    // Values on a coarse grid, kept as f32 by the capture: as HF's bf16 runs often are.
    for (int i = 0; i < 4; ++i) {
      std::vector<double> values = Normal(64, static_cast<unsigned>(i));
      for (double& value : values) {
        value = stored == DType::kBF16  ? BFloatToFloat(FloatToBFloat(static_cast<float>(value)))
                : stored == DType::kF16 ? HalfToFloat(FloatToHalf(static_cast<float>(value)))
                                        : value;
      }
      rounded.Add(0, "layers." + std::to_string(i) + ".out", {4, 16}, values,
                  stored == DType::kF64 ? DType::kF64 : DType::kF32);
    }
    return RoundingOf(rounded.trace());
  };
  EXPECT_EQ(inferred(DType::kBF16).name, "bf16");
  EXPECT_EQ(inferred(DType::kF16).name, "f16");
  EXPECT_EQ(inferred(DType::kF32).name, "f32");
  EXPECT_EQ(inferred(DType::kF64).name, "f64");
  EXPECT_TRUE(inferred(DType::kF32).inferred);
}

// A dump without values says in which type its engine kept them.
TEST(Noise, IsThatOfTheStatedTypesWhereThereAreNoValues) {
  for (const auto& [dtype, name] : {std::pair(DType::kF16, "f16"), std::pair(DType::kBF16, "bf16"),
                                    std::pair(DType::kF32, "f32"), std::pair(DType::kF64, "f64")}) {
    MemoryTrace dump;
    for (int i = 0; i < 3; ++i) dump.AddDigest(0, "layers." + std::to_string(i) + ".out", {4, 16}, "blake3:0");
    Trace trace = dump.trace();
    for (TraceEntry& entry : trace.entries) entry.tensor.dtype = dtype;
    EXPECT_EQ(RoundingOf(trace).name, name);
    EXPECT_TRUE(RoundingOf(trace).inferred);
  }
}

TEST(Diff, OneWrongTokenAmongManyIsFoundThere) {
  MemoryTrace a, b;
  std::vector<double> values = Normal(1000 * 16, 1), wrong = Disturbed(values, 1e-8, 2);
  for (std::size_t i = 0; i < 16; ++i) wrong[700 * 16 + i] *= 1.01;
  a.Engine("hf", "torch-f32")
      .Step(0, 5, 1000)
      .Tokens(std::vector<std::int64_t>(1005))
      .Add(0, "layers.0.out", {1000, 16}, values);
  b.Engine("x", "torch-f32")
      .Step(0, 5, 1000)
      .Tokens(std::vector<std::int64_t>(1005))
      .Add(0, "layers.0.out", {1000, 16}, wrong);
  const DiffResult result = Diff(a.trace(), b.trace());
  ASSERT_TRUE(result.first_divergence);
  EXPECT_EQ(result.first_divergence->position, 705);
  EXPECT_EQ(result.sites[0].max_abs_at[0], 700);
}

// One value among 65536: the error drowns in the sums, not in the maximum.
TEST(Diff, OneWrongValueIsFound) {
  MemoryTrace a, b;
  std::vector<double> values = Normal(16 * 4096, 1), wrong = values;
  wrong[9 * 4096 + 17] += 1;
  a.Engine("hf", "torch-bf16").Add(0, "layers.20.out", {16, 4096}, values);
  b.Engine("x", "torch-bf16").Add(0, "layers.20.out", {16, 4096}, wrong);
  const DiffResult result = Diff(a.trace(), b.trace());
  EXPECT_EQ(result.verdict, Verdict::kDiverged);
  EXPECT_EQ(result.sites[0].diverged_position, 9);
  EXPECT_THAT(result.sites[0].max_abs_at, ::testing::ElementsAre(9, 17));
}

TEST(Diff, NaNOnOneSideDivergesHoweverSmallTheRest) {
  MemoryTrace a, b, c;
  std::vector<double> values = Normal(64, 1), with_nan = values;
  with_nan[37] = kNaN;
  a.Add(0, "embed", {4, 16}, values);
  b.Add(0, "embed", {4, 16}, with_nan);
  c.Add(0, "embed", {4, 16}, with_nan);
  const DiffResult result = Diff(a.trace(), b.trace());
  EXPECT_EQ(result.verdict, Verdict::kDiverged);
  EXPECT_EQ(result.sites[0].diverged_position, 2);
  EXPECT_THAT(result.sites[0].first_mismatch_at, ::testing::ElementsAre(2, 5));
  EXPECT_EQ(Diff(b.trace(), a.trace()).verdict, Verdict::kDiverged);
  EXPECT_EQ(Diff(b.trace(), c.trace()).verdict, Verdict::kIdentical);
}

TEST(Diff, NothingInCommon) {
  MemoryTrace a, b;
  a.Add(0, "embed", {4, 16}, Normal(64, 1));
  b.Add(0, "logits", {4, 16}, Normal(64, 1));
  const DiffResult result = Diff(a.trace(), b.trace());
  EXPECT_EQ(result.verdict, Verdict::kIncomparable);
  EXPECT_EQ(result.Counts().missing_in_subject, 1);
  EXPECT_EQ(result.Counts().missing_in_reference, 1);
  EXPECT_EQ(ExitCode(result.verdict), 3);
  ExpectInvariants(result);
}

TEST(Diff, MissingSitesLeaveTheVerdictAlone) {
  MemoryTrace a, b;
  a.Add(0, "embed", {4, 16}, Normal(64, 1))
      .Add(0, "layers.0.attn.scores", {2, 4, 4}, Normal(32, 1))
      .Add(0, "logits", {4, 16}, Normal(64, 2));
  b.Add(0, "embed", {4, 16}, Normal(64, 1))
      .Add(0, "layers.0.mlp.act", {4, 8}, Normal(32, 1))
      .Add(0, "logits", {4, 16}, Normal(64, 2));
  const DiffResult result = Diff(a.trace(), b.trace());
  EXPECT_EQ(result.verdict, Verdict::kIdentical);
  ASSERT_EQ(result.sites.size(), 4u);
  EXPECT_EQ(result.sites[0].site, "embed");
  EXPECT_EQ(result.sites[3].site, "logits");
  ExpectInvariants(result);
}

TEST(Diff, OtherShapesDivergeAndOnlyOtherShapesAreIncomparable) {
  MemoryTrace a, b, c;
  a.Add(0, "embed", {4, 16}, Normal(64, 1)).Add(0, "layers.0.attn.k", {4, 16}, Normal(64, 2));
  b.Add(0, "embed", {4, 16}, Normal(64, 1)).Add(0, "layers.0.attn.k", {4, 8}, Normal(32, 2));
  c.Add(0, "layers.0.attn.k", {4, 8}, Normal(32, 2));
  const DiffResult result = Diff(a.trace(), b.trace());
  EXPECT_EQ(result.verdict, Verdict::kDiverged);
  ASSERT_TRUE(result.first_divergence);
  EXPECT_EQ(result.first_divergence->position, std::nullopt);
  EXPECT_EQ(At(result, "layers.0.attn.k").status, SiteStatus::kShapeMismatch);
  EXPECT_EQ(Diff(a.trace(), c.trace()).verdict, Verdict::kIncomparable);
}

struct TokenCase {
  const char* name;
  std::vector<std::int64_t> reference, subject;
  const char* cause;  // "" where they count as the same
  std::int64_t position;
};
void PrintTo(const TokenCase& row, std::ostream* out) { *out << row.name; }
class TokenTest : public ::testing::TestWithParam<TokenCase> {};

TEST_P(TokenTest, IsSaidFirst) {
  const TokenCase& row = GetParam();
  MemoryTrace a, b;
  a.Tokens(row.reference).Add(0, "logits", {2, 8}, Normal(16, 1));
  b.Tokens(row.subject).Add(0, "logits", {2, 8}, Normal(16, 1));
  const DiffResult result = Diff(a.trace(), b.trace());
  if (std::string_view(row.cause).empty()) {
    EXPECT_FALSE(result.tokens);
    EXPECT_EQ(result.verdict, Verdict::kIdentical);
    return;
  }
  ASSERT_TRUE(result.tokens);
  EXPECT_EQ(result.tokens->cause, row.cause);
  EXPECT_EQ(result.tokens->position, row.position);
  EXPECT_EQ(result.verdict, Verdict::kIncomparable);
  EXPECT_EQ(result.sites[0].status, SiteStatus::kTokenMismatch);
  EXPECT_THAT(result.reason, ::testing::HasSubstr("position " + std::to_string(row.position)));
}

INSTANTIATE_TEST_SUITE_P(
    Table, TokenTest,
    ::testing::Values(TokenCase{"BosInSubjectOnly", {5, 6, 7}, {1, 5, 6, 7}, "tokens.bos", 0},
                      TokenCase{"BosInReferenceOnly", {1, 5, 6, 7}, {5, 6, 7}, "tokens.bos", 0},
                      // A doubled BOS differs only from the second token on.
                      TokenCase{"BosTwice", {1, 5, 6, 7}, {1, 1, 5, 6, 7}, "tokens.bos", 1},
                      TokenCase{"LeftPadding", {5, 6, 7, 8, 9, 10}, {0, 0, 0, 5, 6, 7, 8, 9, 10}, "tokens.shift", 0},
                      TokenCase{"OneOther", {1, 5, 6}, {1, 4, 6}, "tokens.ids", 1},
                      TokenCase{"AllOther", {1, 2, 3}, {4, 5, 6}, "tokens.ids", 0},
                      TokenCase{"MoreStepsDecoded", {1, 5}, {1, 5, 9}, "", 0}, TokenCase{"Unknown", {}, {}, "", 0}),
    [](const auto& row) { return row.param.name; });

// Greedy decoding that takes another token at step 2 makes later steps another text; what stood before is still compared.
TEST(Diff, TokensThatDifferInALaterStep) {
  MemoryTrace a, b;
  for (MemoryTrace* trace : {&a, &b}) {
    const bool is_subject = trace == &b;
    trace->Tokens({1, 5, 6, is_subject ? 8 : 7}).Step(0, 0, 2).Step(1, 2, 1).Step(2, 3, 1);
    trace->Add(0, "logits", {2, 8}, Normal(16, 1))
        .Add(1, "logits", {1, 8}, Normal(8, 2))
        .Add(2, "logits", {1, 8}, Normal(8, is_subject ? 4 : 3));
  }
  const DiffResult result = Diff(a.trace(), b.trace());
  EXPECT_EQ(result.verdict, Verdict::kIdentical);
  EXPECT_EQ(At(result, "logits", 1).status, SiteStatus::kIdentical);
  EXPECT_EQ(At(result, "logits", 2).status, SiteStatus::kTokenMismatch);
  EXPECT_TRUE(result.tokens);
}

// Rows of q as a GGUF of the `llama` architecture keeps them.
std::vector<double> Interleaved(const std::vector<double>& half_split, std::size_t head_dim) {
  std::vector<double> out(half_split.size());
  for (std::size_t head = 0; head < out.size(); head += head_dim) {
    for (std::size_t i = 0; i < head_dim / 2; ++i) {
      out[head + 2 * i] = half_split[head + i];
      out[head + 2 * i + 1] = half_split[head + head_dim / 2 + i];
    }
  }
  return out;
}

TEST(Diff, RowOrderOfAGgufIsSaidNotBlamed) {
  MemoryTrace hf, gguf;
  const std::vector<double> q = Normal(6 * 32, 1);
  hf.Engine("hf", "torch-f32").Add(0, "layers.0.attn.q", {6, 32}, q).Add(0, "layers.0.attn.v", {6, 32}, q);
  gguf.Engine("llama.cpp", "ggml-cpu")
      .Add(0, "layers.0.attn.q", {6, 32}, Disturbed(Interleaved(q, 8), 1e-4, 3))
      .Add(0, "layers.0.attn.v", {6, 32}, Disturbed(q, 1e-4, 4));
  const DiffResult result = Diff(hf.trace(), gguf.trace());
  EXPECT_EQ(result.verdict, Verdict::kWithinNoise);
  const nlohmann::ordered_json& relation = At(result, "layers.0.attn.q").relation;
  EXPECT_EQ(relation["kind"], "rope_row_order");
  EXPECT_EQ(relation["from"], "interleaved");
  EXPECT_EQ(relation["to"], "half_split");
  EXPECT_EQ(relation["head_dim"], 8);
  EXPECT_TRUE(At(result, "layers.0.attn.v").relation.is_null());

  const DiffResult turned = Diff(gguf.trace(), hf.trace());
  EXPECT_EQ(turned.verdict, Verdict::kWithinNoise);
  EXPECT_EQ(At(turned, "layers.0.attn.q").relation["from"], "half_split");
}

TEST(Diff, RowOrderIsNoExcuseWhereBothAreOfOneKind) {
  MemoryTrace a, b;
  const std::vector<double> q = Normal(6 * 32, 1);
  a.Engine("hf", "torch-f32").Add(0, "layers.0.attn.q", {6, 32}, q);
  b.Engine("jax", "jax-f32").Add(0, "layers.0.attn.q", {6, 32}, Interleaved(q, 8));
  EXPECT_EQ(Diff(a.trace(), b.trace()).verdict, Verdict::kDiverged);
  MemoryTrace qwen;
  qwen.Engine("llama.cpp", "ggml-cpu", "qwen2").Add(0, "layers.0.attn.q", {6, 32}, Interleaved(q, 8));
  EXPECT_EQ(Diff(a.trace(), qwen.trace()).verdict, Verdict::kDiverged);
}

// A permutation that explains a little, as chance allows, is not taken.
TEST(Diff, RowOrderMustBeDecisive) {
  MemoryTrace hf, gguf;
  hf.Engine("hf", "torch-f32").Add(0, "layers.0.attn.q", {6, 32}, Normal(192, 1));
  gguf.Engine("llama.cpp", "ggml-cpu").Add(0, "layers.0.attn.q", {6, 32}, Normal(192, 2));
  const DiffResult result = Diff(hf.trace(), gguf.trace());
  EXPECT_EQ(result.verdict, Verdict::kDiverged);
  EXPECT_TRUE(result.sites[0].relation.is_null());
}

TEST(Diff, ScoresWithPaddingAndMasksHoweverWritten) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  MemoryTrace a, b, c;
  a.Step(0, 0, 2).Add(0, "layers.0.attn.scores", {1, 2, 2}, {1, -kInf, 2, 3});
  b.Step(0, 0, 2).Add(0, "layers.0.attn.scores", {1, 2, 4}, {1, -3.4e38, 7, 8, 2, 3, 9, 10});
  c.Step(0, 0, 2).Add(0, "layers.0.attn.scores", {1, 2, 4}, {1, 0.5, 7, 8, 2, 3, 9, 10});
  EXPECT_EQ(Diff(a.trace(), b.trace()).verdict, Verdict::kIdentical);
  const DiffResult unmasked = Diff(a.trace(), c.trace());
  EXPECT_EQ(unmasked.verdict, Verdict::kDiverged);
  EXPECT_EQ(unmasked.sites[0].diverged_position, 0);
}

TEST(Diff, DecodeStepsAgainstOnePrefill) {
  const std::vector<double> rows = Normal(5 * 8, 1);
  MemoryTrace prefill, steps;
  prefill.Tokens({1, 2, 3, 4, 5}).Step(0, 0, 5).Add(0, "layers.0.out", {5, 8}, rows);
  std::vector<double> last(rows.begin() + 32, rows.end());
  last[3] += 1;
  steps.Tokens({1, 2, 3, 4, 5}).Step(0, 0, 3).Step(1, 3, 1).Step(2, 4, 1);
  steps.Add(0, "layers.0.out", {3, 8}, {rows.begin(), rows.begin() + 24})
      .Add(1, "layers.0.out", {1, 8}, {rows.begin() + 24, rows.begin() + 32})
      .Add(2, "layers.0.out", {1, 8}, last);
  const DiffResult result = Diff(prefill.trace(), steps.trace());
  ASSERT_EQ(result.sites.size(), 3u);
  EXPECT_EQ(At(result, "layers.0.out", 1).status, SiteStatus::kIdentical);
  ASSERT_TRUE(result.first_divergence);
  EXPECT_EQ(result.first_divergence->step, 2);
  EXPECT_EQ(result.first_divergence->position, 4);
  // In the reference's own tensor, which is the prefill.
  EXPECT_THAT(At(result, "layers.0.out", 2).max_abs_at, ::testing::ElementsAre(4, 3));
}

TEST(Diff, LogitsOfTheLastTokenOnly) {
  const std::vector<double> logits = Normal(4 * 8, 1);
  const std::vector<double> last(logits.begin() + 24, logits.end());
  for (const bool with_steps : {false, true}) {
    MemoryTrace a, b;
    a.Add(0, "logits", {4, 8}, logits);
    b.Add(0, "logits", {8}, last);
    if (with_steps) {
      a.Step(0, 0, 4);
      b.Step(0, 0, 4);
    }
    const DiffResult result = Diff(a.trace(), b.trace());
    EXPECT_EQ(result.verdict, Verdict::kIdentical);
    EXPECT_EQ(result.sites[0].stats.count, 8);
    EXPECT_FALSE(result.sites[0].note.empty());
  }
}

TEST(Diff, ExpertsAreSets) {
  MemoryTrace a, order, flip;
  a.Add(0, "layers.1.moe.experts", {3, 2}, {0, 5, 1, 2, 7, 3}, DType::kI32);
  order.Add(0, "layers.1.moe.experts", {3, 2}, {5, 0, 1, 2, 7, 3}, DType::kI32);
  flip.Add(0, "layers.1.moe.experts", {3, 2}, {0, 5, 1, 4, 7, 3}, DType::kI32);
  EXPECT_EQ(Diff(a.trace(), order.trace()).verdict, Verdict::kWithinNoise);
  const DiffResult result = Diff(a.trace(), flip.trace());
  EXPECT_EQ(result.verdict, Verdict::kDiverged);
  EXPECT_EQ(result.sites[0].diverged_position, 1);
}

TEST(Diff, MixtureWeightsFollowTheirExperts) {
  const std::string experts = "layers.1.moe.experts", weights = "layers.1.moe.weights";
  MemoryTrace sorted, unsorted, by_expert, wrong;
  sorted.Add(0, experts, {2, 2}, {3, 0, 1, 2}, DType::kI32).Add(0, weights, {2, 2}, {0.75, 0.25, 0.625, 0.375});
  unsorted.Add(0, experts, {2, 2}, {0, 3, 1, 2}, DType::kI32).Add(0, weights, {2, 2}, {0.25, 0.75, 0.625, 0.375});
  by_expert.Add(0, experts, {2, 2}, {3, 0, 1, 2}, DType::kI32)
      .Add(0, weights, {2, 4}, {0.25, 0, 0, 0.75, 0, 0.625, 0.375, 0});
  wrong.Add(0, experts, {2, 2}, {0, 3, 1, 2}, DType::kI32).Add(0, weights, {2, 2}, {0.75, 0.25, 0.625, 0.375});
  for (const MemoryTrace* subject : {&unsorted, &by_expert}) {
    const DiffResult result = Diff(sorted.trace(), subject->trace());
    EXPECT_EQ(At(result, weights).status, SiteStatus::kIdentical);
    EXPECT_EQ(At(result, weights).relation["to"], "[tokens, experts]");
    EXPECT_EQ(Diff(subject->trace(), sorted.trace()).verdict, result.verdict);
  }
  EXPECT_EQ(At(Diff(sorted.trace(), sorted.trace()), weights).relation, nullptr);
  const DiffResult result = Diff(sorted.trace(), wrong.trace());
  EXPECT_EQ(At(result, weights).status, SiteStatus::kDiverged);
  EXPECT_EQ(At(result, weights).diverged_position, 0);
}

TEST(Diff, DigestsAreEqualByHash) {
  MemoryTrace a, b, c;
  a.AddDigest(0, "embed", {2, 4}, "xxh3:1");
  b.AddDigest(0, "embed", {2, 4}, "xxh3:1");
  c.AddDigest(0, "embed", {2, 4}, "xxh3:2");
  EXPECT_EQ(Diff(a.trace(), b.trace()).verdict, Verdict::kIdentical);
  EXPECT_EQ(Diff(a.trace(), c.trace()).verdict, Verdict::kIncomparable);
}

TEST(Diff, EmptyTensors) {
  MemoryTrace a, b;
  a.Add(0, "embed", {0, 4}, {}).Add(0, "logits", {1, 1}, {1});
  b.Add(0, "embed", {0, 4}, {}).Add(0, "logits", {1, 1}, {1});
  EXPECT_EQ(Diff(a.trace(), b.trace()).verdict, Verdict::kIdentical);
}

TEST(Diff, ProgressReachesItsEnd) {
  MemoryTrace a, b;
  a.Add(0, "embed", {4, 16}, Normal(64, 1)).Add(0, "logits", {4, 16}, Normal(64, 1));
  b.Add(0, "embed", {4, 16}, Normal(64, 1)).Add(0, "logits", {4, 16}, Normal(64, 1));
  std::atomic<std::int64_t> last{0};
  DiffOptions options;
  options.progress = [&](std::int64_t done, std::int64_t total) {
    EXPECT_EQ(total, 128);
    std::int64_t seen = last.load();
    while (seen < done && !last.compare_exchange_weak(seen, done)) {
    }
  };
  (void)Diff(a.trace(), b.trace(), options);
  EXPECT_EQ(last, 128);
}

}  // namespace
}  // namespace paritrace
