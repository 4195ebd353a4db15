#include "compare/match_traces.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compare/diff.h"
#include "compare/mapping_file.h"
#include "compare/match_names.h"
#include "core/error.h"
#include "memory_trace.h"

namespace paritrace {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing_support::Disturbed;
using testing_support::MemoryTrace;
using testing_support::Normal;

constexpr std::int64_t kTokens = 6, kHeads = 4, kDim = 8, kWidth = kHeads * kDim;

MemoryTrace Start() {
  MemoryTrace trace;
  trace.Step(0, 0, kTokens);
  return trace;
}

std::vector<std::string> Names(const MatchResult& match, double least = kUsableConfidence) {
  std::vector<std::string> names;
  for (const TraceMatch& pair : match.pairs) {
    if (pair.confidence >= least) names.push_back(pair.reference->name + "=" + pair.subject->name);
  }
  return names;
}

// A few tensors that a subject stores in its own way.
struct LayoutCase {
  const char* name;
  Shape shape;
  // Place in the subject's memory of (token, head, feature in head).
  std::int64_t (*at)(std::int64_t token, std::int64_t head, std::int64_t feature);
};
void PrintTo(const LayoutCase& row, std::ostream* out) { *out << row.name; }
class MatchLayout : public ::testing::TestWithParam<LayoutCase> {};

TEST_P(MatchLayout, ValuesAreRecognised) {
  const LayoutCase& row = GetParam();
  MemoryTrace reference = Start(), subject = Start();
  for (unsigned i = 0; i < 5; ++i) {
    const std::vector<double> values = Normal(kTokens * kWidth, i + 1);
    reference.Add(0, fmt::format("a{}", i), {kTokens, kWidth}, values, DType::kF32, false);
    std::vector<double> stored(values.size());
    for (std::int64_t t = 0; t < kTokens; ++t) {
      for (std::int64_t f = 0; f < kWidth; ++f)
        stored[static_cast<std::size_t>(row.at(t, f / kDim, f % kDim))] =
            values[static_cast<std::size_t>(t * kWidth + f)];
    }
    subject.Add(0, fmt::format("b{}", 4 - i), row.shape, Disturbed(stored, 1e-6, 9), DType::kF32, false);
  }
  const MatchResult match = MatchTraces(reference.trace(), subject.trace());
  EXPECT_THAT(Names(match, 0.99), ElementsAre("a0=b4", "a1=b3", "a2=b2", "a3=b1", "a4=b0"));
}

INSTANTIATE_TEST_SUITE_P(
    Table, MatchLayout,
    ::testing::Values(
        LayoutCase{"Interleaved",
                   {kTokens, kWidth},
                   [](std::int64_t t, std::int64_t h, std::int64_t f) {
                     return t * kWidth + h * kDim + f % (kDim / 2) * 2 + f / (kDim / 2);
                   }},
        LayoutCase{"HalfSplit",
                   {kTokens, kWidth},
                   [](std::int64_t t, std::int64_t h, std::int64_t f) {
                     return t * kWidth + h * kDim + f % 2 * (kDim / 2) + f / 2;
                   }},
        LayoutCase{"Transposed",
                   {kWidth, kTokens},
                   [](std::int64_t t, std::int64_t h, std::int64_t f) { return (h * kDim + f) * kTokens + t; }},
        LayoutCase{"HeadsFirst",
                   {1, kHeads, kTokens, kDim},
                   [](std::int64_t t, std::int64_t h, std::int64_t f) { return (h * kTokens + t) * kDim + f; }},
        LayoutCase{"HeadsFirstTransposed",
                   {kHeads, kDim, kTokens},
                   [](std::int64_t t, std::int64_t h, std::int64_t f) { return (h * kDim + f) * kTokens + t; }},
        LayoutCase{"TokensFirst",
                   {kTokens, kHeads, kDim},
                   [](std::int64_t t, std::int64_t h, std::int64_t f) { return t * kWidth + h * kDim + f; }},
        LayoutCase{"Batch",
                   {2, kTokens / 2, kWidth},
                   [](std::int64_t t, std::int64_t h, std::int64_t f) { return t * kWidth + h * kDim + f; }}),
    [](const auto& row) { return row.param.name; });

TEST(MatchTraces, OtherDtype) {
  MemoryTrace reference = Start(), subject = Start();
  for (unsigned i = 0; i < 4; ++i) {
    const auto values = Normal(kTokens * kWidth, i + 1);
    reference.Add(0, fmt::format("a{}", i), {kTokens, kWidth}, values, DType::kF32, false);
    subject.Add(0, fmt::format("b{}", i), {kTokens, kWidth}, values, DType::kBF16, false);
  }
  EXPECT_THAT(Names(MatchTraces(reference.trace(), subject.trace()), 0.99),
              ElementsAre("a0=b0", "a1=b1", "a2=b2", "a3=b3"));
}

TEST(MatchTraces, CopiesPairInOrderAndTheOddOneStaysAlone) {
  MemoryTrace reference = Start(), subject = Start();
  const auto stream = Normal(kTokens * kWidth, 1), other = Normal(kTokens * kWidth, 2);
  for (const char* name : {"out", "in"}) reference.Add(0, name, {kTokens, kWidth}, stream, DType::kF32, false);
  reference.Add(0, "norm", {kTokens, kWidth}, other, DType::kF32, false);
  for (const char* name : {"x1", "x2", "x3"}) subject.Add(0, name, {kTokens, kWidth}, stream, DType::kF32, false);
  subject.Add(0, "x4", {kTokens, kWidth}, other, DType::kF32, false);
  const MatchResult match = MatchTraces(reference.trace(), subject.trace());
  EXPECT_THAT(Names(match), ElementsAre("out=x1", "in=x2", "norm=x4"));
  ASSERT_EQ(match.subject_only.size(), 1u);
  EXPECT_EQ(match.subject_only[0]->name, "x3");
  EXPECT_THAT(match.pairs[0].evidence, HasSubstr("2 more with these values: x2"));
}

TEST(MatchTraces, WhatHasNoPartnerPairsWithNothing) {
  MemoryTrace reference = Start(), subject = Start();
  for (unsigned i = 0; i < 4; ++i) {
    const auto values = Normal(kTokens * kWidth, i + 1);
    reference.Add(0, fmt::format("a{}", i), {kTokens, kWidth}, values, DType::kF32, false);
    subject.Add(0, fmt::format("b{}", i), {kTokens, kWidth}, values, DType::kF32, false);
  }
  reference.Add(0, "mine", {kTokens, kWidth}, Normal(kTokens * kWidth, 70), DType::kF32, false);
  // Zeros look like any zeros: values that say nothing must not be taken as agreement.
  reference.Add(0, "zeros", {kTokens, kWidth}, std::vector<double>(kTokens * kWidth), DType::kF32, false);
  subject.Add(0, "b_scaled", {kTokens, kWidth}, Normal(kTokens * kWidth, 3, 4.0), DType::kF32, false);
  const MatchResult match = MatchTraces(reference.trace(), subject.trace());
  EXPECT_THAT(Names(match), ElementsAre("a0=b0", "a1=b1", "a2=b2", "a3=b3"));
  for (const TraceMatch& pair : match.pairs) EXPECT_LE(pair.confidence, 1);
}

TEST(MatchTraces, ScoresWithoutAMaskAreNotTheMaskedOnes) {
  MemoryTrace reference = Start(), subject = Start();
  std::vector<double> raw = Normal(2 * kTokens * kTokens, 1), scores = raw;
  for (std::int64_t i = 0; i < 2 * kTokens * kTokens; ++i) {
    if (i % kTokens > i / kTokens % kTokens) scores[static_cast<std::size_t>(i)] = -1e38;
  }
  reference.Add(0, "scores", {2, kTokens, kTokens}, scores, DType::kF32, false);
  subject.Add(0, "kq", {2, kTokens, kTokens}, raw, DType::kF32, false);
  EXPECT_THAT(Names(MatchTraces(reference.trace(), subject.trace())), IsEmpty());
}

// Layers of three tensors; from layer 2 on the subject computes something else, related in part.
TEST(MatchTraces, NamesLearntWhereValuesAgreeCarryWhereTheyDoNot) {
  MemoryTrace reference = Start(), subject = Start();
  std::vector<std::string> expected;
  for (unsigned layer = 0; layer < 6; ++layer) {
    for (unsigned part = 0; part < 3; ++part) {
      auto values = Normal(kTokens * kWidth, 10 * layer + part + 1);
      const std::string ours = fmt::format("m.{}.{}", layer, "abc"[part]),
                        theirs = fmt::format("{}-{}", "xyz"[part], layer);
      reference.Add(0, ours, {kTokens, kWidth}, values, DType::kF32, false);
      const auto noise = Normal(kTokens * kWidth, 500 + 10 * layer + part, layer < 2 ? 1e-6 : 0.9);
      for (std::size_t i = 0; i < values.size(); ++i) values[i] += noise[i];
      subject.Add(0, theirs, {kTokens, kWidth}, values, DType::kF32, false);
      expected.push_back(ours + "=" + theirs);
    }
  }
  const MatchResult match = MatchTraces(reference.trace(), subject.trace());
  EXPECT_EQ(Names(match), expected);
  EXPECT_GT(match.pairs.front().confidence, match.pairs.back().confidence);
}

TEST(MatchTraces, DigestsByHash) {
  MemoryTrace reference, subject;
  reference.AddDigest(0, "p", {6, 4}, "xxh3:1").AddDigest(0, "q", {6, 4}, "xxh3:2");
  subject.AddDigest(0, "t", {6, 4}, "xxh3:2").AddDigest(0, "s", {6, 4}, "xxh3:1");
  for (Trace* trace : {&reference.trace(), &subject.trace()}) {
    for (TraceEntry& entry : trace->entries) entry.site.clear();
  }
  EXPECT_THAT(Names(MatchTraces(reference.trace(), subject.trace())), ElementsAre("p=s", "q=t"));
}

TEST(MatchTraces, LaterStepsAddOnlyNewNames) {
  MemoryTrace reference = Start(), subject = Start();
  reference.Step(1, kTokens, 1);
  subject.Step(1, kTokens, 1);
  for (int step = 0; step < 2; ++step) {
    const std::int64_t rows = step == 0 ? kTokens : 1;
    for (unsigned i = 0; i < 2; ++i) {
      const auto values = Normal(rows * kWidth, 7 * static_cast<unsigned>(step) + i + 1);
      reference.Add(step, fmt::format("a{}", i), {rows, kWidth}, values, DType::kF32, false);
      subject.Add(step, fmt::format("b{}", i), {rows, kWidth}, values, DType::kF32, false);
    }
  }
  EXPECT_THAT(Names(MatchTraces(reference.trace(), subject.trace())), ElementsAre("a0=b0", "a1=b1"));
}

TEST(SplitName, LayerAndWords) {
  const NameParts hf = SplitName("model.layers.12.self_attn.q_proj"), ggml = SplitName("Qcur-12:MUL_MAT");
  EXPECT_EQ(hf.pattern, "model.layers.#.self_attn.q_proj");
  EXPECT_EQ(hf.number, 12);
  EXPECT_GT(WordSimilarity(hf, ggml), 0);
  EXPECT_EQ(SplitName("99999999999999999999999").number, std::nullopt);
  EXPECT_EQ(WordSimilarity(SplitName(""), SplitName("")), 0);
}

TEST(MappingFile, WhatIsWrittenIsRead) {
  MemoryTrace reference = Start(), subject = Start();
  const auto values = Normal(kTokens * kWidth, 1);
  reference.Add(0, "layers.0.attn.q", {kTokens, kWidth}, values);
  subject.Add(0, "quote\" back\\ line\n", {kTokens, kWidth}, values, DType::kF32, false);
  MatchResult match = MatchTraces(reference.trace(), subject.trace());
  ASSERT_EQ(match.pairs.size(), 1u);
  const auto pairs = ParseMapping(FormatMapping(match, reference.trace(), subject.trace(), 0.5), "m.toml");
  ASSERT_EQ(pairs.size(), 1u);
  EXPECT_EQ(pairs[0].subject, "quote\" back\\ line\n");
  EXPECT_EQ(pairs[0].site, "layers.0.attn.q");
  EXPECT_NEAR(pairs[0].confidence, match.pairs[0].confidence, 1e-4);

  match.pairs[0].confidence = 0.4;  // a guess is a comment
  EXPECT_THAT(ParseMapping(FormatMapping(match, reference.trace(), subject.trace(), 0.5), "m.toml"), IsEmpty());
}

TEST(MappingFile, DiffPairsWhatTheMapPairs) {
  MemoryTrace reference = Start(), subject = Start();
  const auto values = Normal(kTokens * kWidth, 1);
  reference.Add(0, "layers.0.attn.q", {kTokens, kWidth}, values).Add(0, "same", {1}, {1}, DType::kF32, false);
  subject.Add(0, "t1", {kTokens, kWidth}, values, DType::kF32, false).Add(0, "other", {1}, {1}, DType::kF32, false);
  const DiffResult without = Diff(reference.trace(), subject.trace());
  EXPECT_EQ(without.verdict, Verdict::kIncomparable);
  EXPECT_THAT(without.reason, HasSubstr("paritrace align"));

  const std::vector<MappedPair> pairs = {{.reference = "layers.0.attn.q", .subject = "t1"},
                                         {.reference = "same", .subject = "other", .confidence = 0.3},
                                         {.reference = "absent", .subject = "t9"}};
  const MappingUse use = ApplyMapping(pairs, 0.5, reference.trace(), subject.trace());
  EXPECT_EQ(std::tuple(use.used, use.unsure, use.absent), std::tuple(1, 1, 1));
  const DiffResult diff = Diff(reference.trace(), subject.trace());
  EXPECT_EQ(diff.verdict, Verdict::kIdentical);
  EXPECT_EQ(diff.Counts().identical, 1);
  EXPECT_EQ(diff.sites[0].site, "layers.0.attn.q");
}

struct BadMap {
  const char* name;
  const char* text;
  const char* message;
};
void PrintTo(const BadMap& row, std::ostream* out) { *out << row.name; }
class MappingErrors : public ::testing::TestWithParam<BadMap> {};

TEST_P(MappingErrors, AreNamed) {
  try {
    (void)ParseMapping(GetParam().text, "m.toml");
    FAIL() << "accepted";
  } catch (const FormatError& error) {
    EXPECT_THAT(error.what(), HasSubstr(GetParam().message));
    EXPECT_THAT(error.what(), HasSubstr("m.toml"));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Table, MappingErrors,
    ::testing::Values(
        BadMap{"NoToml", "pair = [", "line 1"}, BadMap{"OtherFormat", "format = \"x\"", "paritrace-map/1"},
        BadMap{"NoFormat", "pair = []", "found none"},
        BadMap{"NoArray", "format = \"paritrace-map/1\"\npair = 3", "line 2"},
        BadMap{"NoTable", "format = \"paritrace-map/1\"\npair = [3]", "line 2"},
        BadMap{"NoSubject", "format = \"paritrace-map/1\"\npair = [{ reference = \"a\" }]", "subject"},
        BadMap{"NoSite", "format = \"paritrace-map/1\"\npair = [{ reference = \"a\", subject = \"b\", site = \"q\" }]",
               "a site"},
        BadMap{"Surer",
               "format = \"paritrace-map/1\"\npair = [{ reference = \"a\", subject = \"b\", confidence = 2.0 }]",
               "from 0 to 1"},
        BadMap{"NaN", "format = \"paritrace-map/1\"\npair = [{ reference = \"a\", subject = \"b\", confidence = nan }]",
               "from 0 to 1"},
        BadMap{"ZerothOccurrence",
               "format = \"paritrace-map/1\"\npair = [{ reference = \"a\", subject = \"b\", occurrence = [0, 1] }]",
               "both from 1"},
        BadMap{"Twice",
               "format = \"paritrace-map/1\"\npair = [{ reference = \"a\", subject = \"b\" },\n"
               "{ reference = \"c\", subject = \"b\" }]",
               "line 3"},
        BadMap{"UnknownKey", "format = \"paritrace-map/1\"\nmode = 1", "\"mode\""}),
    [](const auto& row) { return row.param.name; });

}  // namespace
}  // namespace paritrace
