#include "trace/naming.h"

#include <chrono>
#include <limits>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "file_bytes.h"
#include "trace/embedded_rules.h"
#include "trace/naming_rules.h"

namespace paritrace {
namespace {

using ::testing::HasSubstr;

TEST(IsSite, AcceptsEveryNameOfTheContractAndNoOther) {
  for (const char* site : {"embed", "embed.norm", "final_norm", "logits", "pooled"}) EXPECT_TRUE(IsSite(site)) << site;
  for (const char* part : {"in",          "out",           "attn.norm",   "attn.post_norm", "attn.q",
                           "attn.k",      "attn.v",        "attn.q_norm", "attn.k_norm",    "attn.q_rope",
                           "attn.k_rope", "attn.scores",   "attn.probs",  "attn.ctx",       "attn.ctx_norm",
                           "attn.out",    "attn.residual", "mlp.norm",    "mlp.gate",       "mlp.up",
                           "mlp.act",     "mlp.act_norm",  "mlp.out",     "mlp.residual",   "moe.router_logits",
                           "moe.probs",   "moe.experts",   "moe.weights", "moe.out"}) {
    EXPECT_TRUE(IsSite(std::string("layers.0.") + part)) << part;
    EXPECT_TRUE(IsSite(std::string("layers.127.") + part)) << part;
    EXPECT_FALSE(IsSite(part)) << part;
  }
  for (const char* other : {"",
                            "embed.",
                            "Embed",
                            "layers",
                            "layers.",
                            "layers.0",
                            "layers.0.",
                            "layers..in",
                            "layers.x.in",
                            "layers.-1.in",
                            "layers.+1.in",
                            "layers.01.in",
                            "layers.00.in",
                            "layers. 1.in",
                            "layers.1.in ",
                            "layers.1.in.",
                            "layers.1.attn",
                            "layers.1.attn.w",
                            "layers.1234567.in",
                            "layers.99999999999999999999.in",
                            "model.layers.0.in",
                            "logits#2",
                            "0/logits"}) {
    EXPECT_FALSE(IsSite(other)) << other;
  }
}

TEST(ExecutionRank, FollowsADecoder) {
  const std::vector<std::string> order = {"embed",
                                          "embed.norm",
                                          "layers.0.in",
                                          "layers.0.attn.norm",
                                          "layers.0.attn.q",
                                          "layers.0.attn.k",
                                          "layers.0.attn.v",
                                          "layers.0.attn.q_norm",
                                          "layers.0.attn.q_rope",
                                          "layers.0.attn.scores",
                                          "layers.0.attn.probs",
                                          "layers.0.attn.ctx",
                                          "layers.0.attn.out",
                                          "layers.0.attn.residual",
                                          "layers.0.attn.post_norm",
                                          "layers.0.mlp.norm",
                                          "layers.0.mlp.gate",
                                          "layers.0.mlp.act",
                                          "layers.0.mlp.out",
                                          "layers.0.mlp.residual",
                                          "layers.0.out",
                                          "layers.1.in",
                                          "layers.1.moe.router_logits",
                                          "layers.1.moe.out",
                                          "layers.1.mlp.out",
                                          "layers.1.out",
                                          "layers.10.in",
                                          "layers.999999.out",
                                          "final_norm",
                                          "logits",
                                          "pooled",
                                          "what is this"};
  for (std::size_t i = 1; i < order.size(); ++i)
    EXPECT_LT(ExecutionRank(order[i - 1]), ExecutionRank(order[i])) << order[i];
  EXPECT_EQ(ExecutionRank(""), std::numeric_limits<std::int64_t>::max());
}

const std::string kRules = R"(
engine = "toy"
aliases = ["toy-engine"]

[[rule]]
pattern = 'blocks\.(\d+)\.special'
site = "layers.{1}.attn.norm"
[[rule]]
pattern = '^blocks\.(\d+)\.(?:attn|self)\.([qkv])(?:_proj)?$'
site = "layers.{1}.attn.{2}"
[[rule]]
pattern = 'blocks\.(\d+)\.special|emb(edding)?s?'
site = "embed"
[[rule]]
pattern = '[hH]ead-{1,2}out'
site = "logits"
[[rule]]
pattern = 'x*y+z?w'
site = "final_norm"
)";

struct RuleCase {
  const char* name;
  std::string input;
  std::optional<std::string> site;
};
class ToyRules : public ::testing::TestWithParam<RuleCase> {};
TEST_P(ToyRules, MapsTheName) {
  const NamingRules rules = NamingRules::Parse(kRules, "toy.toml");
  for (int again = 0; again < 2; ++again)
    EXPECT_EQ(rules.SiteOf(GetParam().input), GetParam().site) << "the second time from memory";
}
INSTANTIATE_TEST_SUITE_P(
    Table, ToyRules,
    ::testing::Values(RuleCase{"Groups", "blocks.12.attn.k_proj", "layers.12.attn.k"},
                      RuleCase{"OptionalEnd", "blocks.0.self.v", "layers.0.attn.v"},
                      RuleCase{"FirstRuleWins", "blocks.3.special", "layers.3.attn.norm"},
                      RuleCase{"WholeNameOnly", "model.blocks.3.special", std::nullopt},
                      RuleCase{"NothingBehind", "blocks.3.special#2", std::nullopt},
                      RuleCase{"LayerThatIsNone", "blocks.007.special", std::nullopt},
                      RuleCase{"AlternationAtTheTop", "embeddings", "embed"},
                      RuleCase{"ClassAndCount", "Head--out", "logits"},
                      RuleCase{"ClassAndCountOnce", "head-out", "logits"},
                      // What looks like literal text at the ends may be optional.
                      RuleCase{"OptionalLiterals", "yw", "final_norm"},
                      RuleCase{"RepeatedLiterals", "xxyyzw", "final_norm"}, RuleCase{"Empty", "", std::nullopt},
                      RuleCase{"VeryLong", "blocks." + std::string(1'000'000, '1') + ".special", std::nullopt}),
    [](const auto& row) { return row.param.name; });

TEST(NamingRules, KnowTheirEngine) {
  const NamingRules rules = NamingRules::Parse(kRules, "toy.toml");
  EXPECT_EQ(rules.engine(), "toy");
  EXPECT_TRUE(rules.IsFor("toy") && rules.IsFor("toy-engine"));
  EXPECT_FALSE(rules.IsFor("") || rules.IsFor("to"));
}

struct MalformedCase {
  const char* name;
  const char* text;
  const char* message;
};
class MalformedRules : public ::testing::TestWithParam<MalformedCase> {};
TEST_P(MalformedRules, AreRefusedWithTheLine) {
  EXPECT_THAT(testing::FormatErrorOf([] { return NamingRules::Parse(GetParam().text, "toy.toml"); }),
              HasSubstr(GetParam().message));
}
INSTANTIATE_TEST_SUITE_P(
    Table, MalformedRules,
    ::testing::Values(MalformedCase{"NotToml", "engine = \n", "toy.toml: line 1: expected valid TOML"},
                      MalformedCase{"NoEngine", "[[rule]]\npattern='a'\nsite='b'", "engine = \"…\""},
                      MalformedCase{"NoRules", "engine = 'x'", "toy.toml: rule: expected [[rule]] tables, found none"},
                      MalformedCase{"NoSite", "engine = 'x'\n[[rule]]\npattern = 'a'", "line 2: expected site = \"…\""},
                      MalformedCase{"NoRegex", "engine = 'x'\n[[rule]]\npattern = '(a'\nsite = 'embed'",
                                    "a regular expression as pattern, found \"(a\""},
                      MalformedCase{"GroupThatIsNone",
                                    "engine = 'x'\n[[rule]]\npattern = '(a)'\nsite = 'layers.{2}.in'",
                                    "at most 1 groups in site"}),
    [](const auto& row) { return row.param.name; });

// The files in rules/ themselves: a broken one would only show when its engine is used.
TEST(SiteOf, EveryRuleFileParses) {
  for (const EmbeddedRules& file : AllEmbeddedRules()) {
    const NamingRules rules = NamingRules::Parse(file.text, std::string(file.engine));
    EXPECT_EQ(rules.engine(), file.engine);
    EXPECT_TRUE(HasRules(file.engine));
  }
  EXPECT_FALSE(HasRules(""));
  EXPECT_FALSE(HasRules("no such engine"));
}

TEST(SiteOf, SitesMapToThemselvesForEveryEngine) {
  EXPECT_EQ(SiteOf("", "layers.3.attn.q_rope"), "layers.3.attn.q_rope");
  EXPECT_EQ(SiteOf("hf", "logits"), "logits");
  EXPECT_EQ(SiteOf("no such engine", "logits"), "logits");
  EXPECT_EQ(SiteOf("no such engine", "model.layers.0.self_attn.q_proj"), std::nullopt);
}

TEST(SiteOf, KnowsHuggingFaceModules) {
  EXPECT_EQ(SiteOf("hf", "model.layers.0.self_attn.q_proj"), "layers.0.attn.q");
  EXPECT_EQ(SiteOf("", "model.layers.21.self_attn.q_proj"), "layers.21.attn.q");
  EXPECT_EQ(SiteOf("hf", "model.layers.0.self_attn.q_proj.weight"), std::nullopt);
}

TEST(SiteOf, ThousandsOfNamesFromSeveralThreads) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([] {
      for (int layer = 0; layer < 500; ++layer) {
        for (const char* part : {"self_attn.q_proj", "mlp.up_proj", "mlp.down_proj", "no.such.module"}) {
          (void)SiteOf("", "model.layers." + std::to_string(layer) + "." + part);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_LT(seconds.count(), 10) << "generous: tenths of a second are usual, also under sanitizers a few seconds";
}

}  // namespace
}  // namespace paritrace
