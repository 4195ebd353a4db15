// Every report of one diff must tell the same story: same counts, same first divergence, nothing hidden by a format.
#include <limits>
#include <regex>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compare/diff.h"
#include "memory_trace.h"
#include "report/diff_ci.h"
#include "report/diff_html.h"
#include "report/diff_json.h"
#include "report/diff_markdown.h"
#include "report/diff_terminal.h"
#include "report/diff_words.h"
#include "report/terminal.h"

namespace paritrace {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using testing_support::Disturbed;
using testing_support::MemoryTrace;
using testing_support::Normal;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct Pair {
  MemoryTrace reference, subject;
};

// Twelve layers that agree, then one that does not; a site on each side only; a name that tries to break out.
Pair Diverging() {
  Pair pair;
  pair.reference.Engine("hf", "torch-f32");
  pair.subject.Engine("mine", "torch-f32");
  for (int layer = 0; layer < 12; ++layer) {
    const std::string site = "layers." + std::to_string(layer) + ".out";
    const std::vector<double> values = Normal(64, static_cast<unsigned>(layer));
    pair.reference.Add(0, site, {4, 16}, values);
    pair.subject.Add(0, site, {4, 16}, layer < 9 ? Disturbed(values, 1e-7, 5) : Normal(64, 100));
  }
  pair.reference.Add(0, "layers.0.attn.scores", {1, 4, 4}, Normal(16, 1));
  pair.subject.Add(0, "<b>|&\"\x1b[2J\xff", {1}, {1}, DType::kF32, false);
  return pair;
}

std::int64_t CountOf(const std::string& text, const std::string& pattern) {
  const std::regex regex(pattern);
  return std::distance(std::sregex_iterator(text.begin(), text.end(), regex), std::sregex_iterator());
}

TEST(DiffReports, AgreeOnCountsAndFirstDivergence) {
  const Pair pair = Diverging();
  const DiffResult diff = Diff(pair.reference.trace(), pair.subject.trace());
  const StatusCounts counts = diff.Counts();
  ASSERT_EQ(counts.diverged, 3);
  ASSERT_EQ(counts.missing_in_subject, 1);
  ASSERT_EQ(counts.missing_in_reference, 1);

  const auto json = DiffToJson(diff);
  EXPECT_EQ(json["schema"], "paritrace/diff/1");
  EXPECT_EQ(json["verdict"], "diverged");
  EXPECT_EQ(json["first_divergence"]["site"], "layers.9.out");
  EXPECT_EQ(json["first_divergence"]["position"], 0);
  EXPECT_EQ(json["sites"].size(), static_cast<std::size_t>(counts.Total()));
  EXPECT_EQ(json["counts"]["total"], counts.Total());

  const std::string html = DiffToPlainHtml(diff);
  EXPECT_EQ(CountOf(html, "<tr( class=\"first\")?><td>"), counts.Total());
  EXPECT_EQ(CountOf(html, ">diverged<"), counts.diverged);

  const std::string junit = DiffToJunit(diff);
  EXPECT_EQ(CountOf(junit, "<testcase "), counts.Total() + 1);
  EXPECT_EQ(CountOf(junit, "<failure "), counts.diverged + 1);
  EXPECT_EQ(CountOf(junit, "<skipped "), 2);

  EXPECT_EQ(DiffToSarif(diff)["runs"][0]["results"].size(), 3u);

  const std::string all = DiffToTerminal(diff, {.width = 100, .colour = false, .all = true});
  EXPECT_EQ(CountOf(all, "\n.*  diverged"), counts.diverged);
  EXPECT_EQ(CountOf(all, "  within noise\n"), counts.within_noise);
  for (const std::string& text : {all, DiffToTerminal(diff, {}), DiffToMarkdown(diff), html, junit}) {
    EXPECT_THAT(text, HasSubstr("Diverged from layers.9.out on, at position 0"));
    EXPECT_EQ(text.find('\x1b'), std::string::npos);
    EXPECT_EQ(text.find('\xff'), std::string::npos);
  }
  for (const std::string& text : {html, junit}) {
    EXPECT_THAT(text, Not(HasSubstr("<b>")));
    EXPECT_THAT(text, HasSubstr("&lt;b&gt;|&amp;&quot;"));
  }
}

TEST(DiffTerminal, FoldsLongRunsAndMarksTheFirstDivergence) {
  const Pair pair = Diverging();
  const DiffResult diff = Diff(pair.reference.trace(), pair.subject.trace());
  const std::string text = DiffToTerminal(diff, {});
  EXPECT_THAT(text, HasSubstr("\n>  layers.9.out"));
  EXPECT_THAT(text, HasSubstr("… 5 more within noise, nmse at most"));
  EXPECT_THAT(text, HasSubstr("only in the reference: attn.scores of layer 0\n"));
  EXPECT_THAT(text, HasSubstr("only in the subject: 1 tensor that no rule maps to a site"));
  EXPECT_LT(text.find("Diverged"), text.find("layers.0.out"));
}

TEST(DiffTerminal, StaysInsideItsColumns) {
  Pair pair = Diverging();
  const std::string name = "model.layers.0.self_attn.a_module_of_a_very_long_name_that_nobody_maps.weight_norm_output";
  pair.reference.Add(3, name, {1}, {1}, DType::kF32, false);
  pair.subject.Add(3, name, {1}, {1}, DType::kF32, false);
  const DiffResult diff = Diff(pair.reference.trace(), pair.subject.trace());
  for (const bool all : {false, true}) {
    std::string text = DiffToTerminal(diff, {.width = 80, .colour = false, .all = all});
    for (std::size_t end; (end = text.find('\n')) != std::string::npos; text.erase(0, end + 1)) {
      EXPECT_LE(DisplayWidth(text.substr(0, end)), 80u) << text.substr(0, end);
    }
  }
}

TEST(DiffTerminal, ColourChangesNoCharacter) {
  const Pair pair = Diverging();
  const DiffResult diff = Diff(pair.reference.trace(), pair.subject.trace());
  const std::string coloured = DiffToTerminal(diff, {.width = 80, .colour = true, .all = false});
  EXPECT_NE(coloured.find("\x1b["), std::string::npos);
  EXPECT_EQ(std::regex_replace(coloured, std::regex("\x1b\\[[0-9;]*m"), ""), DiffToTerminal(diff, {}));
}

TEST(DiffJson, HoldsEveryKeyOfTheContract) {
  const Pair pair = Diverging();
  const auto json = DiffToJson(Diff(pair.reference.trace(), pair.subject.trace()));
  for (const auto& site : json["sites"]) {
    for (const char* key : {"step", "site", "shape", "status", "max_abs", "max_abs_at", "mean_abs", "rms_reference",
                            "rms_subject", "cosine", "nmse", "nan", "inf", "per_position", "relation"}) {
      EXPECT_TRUE(site.contains(key)) << key << " of " << site["site"];
    }
    for (const auto& position : site["per_position"]) {
      for (const char* key : {"max_abs", "nmse", "cosine"}) EXPECT_TRUE(position.contains(key));
    }
    EXPECT_FALSE(site.contains("nonfinite"));
  }
  EXPECT_EQ(json["reference"]["engine"]["name"], "hf");
}

TEST(DiffJson, NonfiniteIsNullWithAMarkBesideIt) {
  Pair pair;
  std::vector<double> values = Normal(64, 1), broken = values;
  broken[37] = kNaN;
  pair.reference.Add(0, "embed", {4, 16}, values);
  pair.subject.Add(0, "embed", {4, 16}, broken);
  const auto site = DiffToJson(Diff(pair.reference.trace(), pair.subject.trace()))["sites"][0];
  EXPECT_TRUE(site["max_abs"].is_null());
  EXPECT_TRUE(site["nmse"].is_null());
  EXPECT_EQ(site["nonfinite"], true);
  EXPECT_EQ(site["nan"], 1);
  EXPECT_EQ(site["nan_subject"], 1);
  EXPECT_EQ(site["nan_reference"], 0);
  EXPECT_EQ(site["max_abs_at"], nlohmann::json({2, 5}));
  EXPECT_EQ(site["finite"]["max_abs"], 0);
  EXPECT_EQ(site["per_position"][2]["nonfinite"], true);
  EXPECT_FALSE(site["per_position"][1].contains("nonfinite"));
  // A zero reference makes the error infinitely large: no number either.
  Pair zero;
  zero.reference.Add(0, "embed", {1, 2}, {0, 0});
  zero.subject.Add(0, "embed", {1, 2}, {1, 0});
  const auto infinite = DiffToJson(Diff(zero.reference.trace(), zero.subject.trace()))["sites"][0];
  EXPECT_TRUE(infinite["nmse"].is_null());
  EXPECT_EQ(infinite["max_abs"], 1);
  EXPECT_EQ(infinite["nonfinite"], true);
}

TEST(DiffJson, TokensStandThereWhereNothingCanBeCompared) {
  Pair pair;
  pair.reference.Tokens({5, 6, 7}).Add(0, "logits", {1, 4}, Normal(4, 1));
  pair.subject.Tokens({1, 5, 6, 7}).Add(0, "logits", {1, 4}, Normal(4, 1));
  const DiffResult diff = Diff(pair.reference.trace(), pair.subject.trace());
  const auto json = DiffToJson(diff);
  EXPECT_EQ(json["verdict"], "incomparable");
  EXPECT_EQ(json["tokens"]["cause"], "tokens.bos");
  EXPECT_EQ(json["tokens"]["position"], 0);
  EXPECT_TRUE(json["first_divergence"].is_null());
  EXPECT_EQ(json["sites"][0]["status"], "token_mismatch");
  EXPECT_THAT(DiffToTerminal(diff, {}), ::testing::StartsWith("Nothing to compare: the tokens differ from position 0"));
  EXPECT_EQ(DiffToSarif(diff)["runs"][0]["results"][0]["ruleId"], "tokens.bos");
}

TEST(DiffDetail, OneChannelThatHoldsTheErrorIsNamed) {
  MemoryTrace reference, subject;
  std::vector<double> values = Normal(64, 1), changed = values;
  for (std::size_t row = 0; row < 4; ++row) changed[16 * row + 5] = -2 * values[16 * row + 5];
  changed[16 * 2 + 9] *= 1.0001;
  reference.Add(0, "layers.0.out", {4, 16}, values);
  subject.Add(0, "layers.0.out", {4, 16}, changed);
  EXPECT_FALSE(DiffToJson(Diff(reference.trace(), subject.trace()))["sites"][0].contains("all_stats"));
  DiffOptions options;
  options.all_stats = true;
  const DiffResult diff = Diff(reference.trace(), subject.trace(), options);
  const auto stats = DiffToJson(diff)["sites"][0]["all_stats"];
  EXPECT_EQ(stats["sign_flips"], 4);
  EXPECT_EQ(stats["counted"], 64);
  EXPECT_EQ(stats["relative_error"]["p50"], 0);
  const double most = stats["relative_error"]["max"];  // of 3: a bound within a factor of four
  EXPECT_GT(most, 3);
  EXPECT_LE(most, 12);
  EXPECT_EQ(stats["channels"]["count"], 16);
  EXPECT_EQ(stats["channels"]["with_half_the_error"], 1);
  ASSERT_EQ(stats["channels"]["worst"].size(), 2u);
  EXPECT_EQ(stats["channels"]["worst"][0]["channel"], 5);
  EXPECT_NEAR(stats["channels"]["worst"][0]["nmse"].get<double>(), 9, 1e-5);
  EXPECT_THAT(DiffToTerminal(diff, {.width = 80, .colour = false, .all = false}), HasSubstr("5 (100 %)"));
}

TEST(DiffWords, SentencesForEachVerdict) {
  Pair same, noise;
  same.reference.Add(0, "embed", {1, 2}, {1, 2});
  same.subject.Add(0, "embed", {1, 2}, {1, 2});
  EXPECT_EQ(VerdictSentence(Diff(same.reference.trace(), same.subject.trace())),
            "Identical: 1 site, every value equal.");
  noise.reference.Engine("hf", "torch-f32").Add(0, "embed", {1, 64}, Normal(64, 1));
  noise.subject.Engine("hf", "torch-bf16").Add(0, "embed", {1, 64}, Disturbed(Normal(64, 1), 1e-3, 2));
  EXPECT_THAT(VerdictSentence(Diff(noise.reference.trace(), noise.subject.trace())),
              HasSubstr("rounding (torch-f32 and torch-bf16) explains what differs at all 1 site"));
  MemoryTrace nothing;
  EXPECT_EQ(VerdictSentence(Diff(nothing.trace(), nothing.trace())),
            "Nothing to compare: the traces have no site in common; `paritrace align REF SUB -o MAP.toml` finds what "
            "to pair.");
}

TEST(DiffWords, ShortNumbers) {
  EXPECT_EQ(ShortNumber(0), "0");
  EXPECT_EQ(ShortNumber(0.25), "0.25");
  EXPECT_EQ(ShortNumber(14.93), "14.9");
  EXPECT_EQ(ShortNumber(3.14e-9), "3.1e-09");
  EXPECT_EQ(ShortNumber(-12345), "-1.2e+04");
  EXPECT_EQ(ShortNumber(kNaN), "nan");
}

}  // namespace
}  // namespace paritrace
