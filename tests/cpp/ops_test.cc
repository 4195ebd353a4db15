#include "graph/ops.h"

#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>

#include <gtest/gtest.h>

namespace paritrace {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity(), kNaN = std::numeric_limits<double>::quiet_NaN();

Arithmetic Policy(const char* name) { return *FindArithmetic(name); }

Value RandomValue(Shape shape, unsigned seed) {
  Value value(std::move(shape));
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  for (double& x : value.data) x = static_cast<float>(normal(random));
  return value;
}

RunInput Tokens(std::int64_t count, std::int64_t start = 0) {
  RunInput run;
  for (std::int64_t t = 0; t < count; ++t) {
    run.tokens.push_back(t);
    run.positions.push_back(start + t);
  }
  return run;
}

struct OwnedWeight {
  std::vector<float> values;
  Weight weight;
  OwnedWeight(Shape shape, unsigned seed) {
    const Value random = RandomValue(shape, seed);
    values.assign(random.data.begin(), random.data.end());
    weight = {.name = "w",
              .tensor = {.name = "w", .dtype = DType::kF32, .shape = shape, .bytes = std::as_bytes(std::span(values))}};
  }
};

// Half-split rotation of reordered lanes is interleaved rotation of the lanes as they were: the conversion of q and k rows.
TEST(Rope, PairingsDifferByAPermutation) {
  RopeOp split{.heads = 3, .head_dim = 8, .rotary_dim = 8, .exponent_dim = 8, .theta = 500};
  RopeOp adjacent = split;
  adjacent.pairing = RopePairing::kInterleaved;
  const Value x = RandomValue({5, 24}, 1);
  Value permuted = x;
  ReorderHeads(permuted, 8, /*to_interleaved=*/true);
  const Value expected = ComputeRope(split, x, Tokens(5), Policy("f64"));
  Value got = ComputeRope(adjacent, permuted, Tokens(5), Policy("f64"));
  ReorderHeads(got, 8, /*to_interleaved=*/false);
  EXPECT_EQ(got.data, expected.data);
}

TEST(Rope, TurnsByPositionTimesFrequencyAndKeepsNorms) {
  const RopeOp op{.heads = 1, .head_dim = 4, .rotary_dim = 4, .exponent_dim = 4, .theta = 100};
  Value x({1, 4});
  x.data = {1, 0, 0, 2};
  const Value y = ComputeRope(op, x, Tokens(1, 3), Policy("f64"));
  EXPECT_NEAR(y.data[0], std::cos(3.0), 1e-15);
  EXPECT_NEAR(y.data[2], std::sin(3.0), 1e-15);
  EXPECT_NEAR(y.data[1], -2 * std::sin(0.3), 1e-15);  // second pair: frequency 100^(-2/4)
  EXPECT_NEAR(y.data[3], 2 * std::cos(0.3), 1e-15);
}

TEST(Softmax, MaskedScoresWeighNothingAndRowsSumToOne) {
  Value scores({1, 2, 3});
  scores.data = {0, -kInf, -kInf, 1000, 1001, 999};
  const Value probs = ComputeSoftmax({}, scores, {}, Policy("f64"));
  EXPECT_EQ(probs.data[0], 1);
  EXPECT_EQ(probs.data[1], 0);
  EXPECT_NEAR(probs.data[3] + probs.data[4] + probs.data[5], 1, 1e-15);
}

TEST(Softmax, NaNIsNotLost) {
  Value scores({1, 1, 2});
  scores.data = {std::nan(""), 1};
  EXPECT_TRUE(std::isnan(ComputeSoftmax({}, scores, {}, Policy("f64")).data[1]));
}

TEST(Attention, GroupedHeadsAreRepeatedNotTiled) {
  EXPECT_EQ(KvHead(0, 4, 2, false), 0);
  EXPECT_EQ(KvHead(1, 4, 2, false), 0);
  EXPECT_EQ(KvHead(1, 4, 2, true), 1);
}

// With nothing rounded, the running maximum and the running sum of a flash kernel change no value.
TEST(Attention, FlashEqualsEagerInF64) {
  const ScoresOp scores{.heads = 4, .kv_heads = 2, .head_dim = 8, .scale = 0.35, .softcap = 3, .window = 5};
  const ContextOp context{.heads = 4, .kv_heads = 2, .head_dim = 8};
  const Value q = RandomValue({9, 32}, 1), k = RandomValue({9, 16}, 2), v = RandomValue({9, 16}, 3);
  const RunInput run = Tokens(9);
  const Value probs = ComputeSoftmax({}, ComputeScores(scores, q, k, run, Policy("f64")), run, Policy("f64"));
  const Value eager = ComputeContext(context, probs, v, Policy("f64"));
  const Value flash = ComputeFlashContext(scores, context, q, k, v, run, Policy("f64"));
  for (std::size_t i = 0; i < eager.data.size(); ++i) EXPECT_NEAR(eager.data[i], flash.data[i], 1e-14);
}

TEST(Mask, CausalWindowAndOffset) {
  const ScoresOp causal{};
  RunInput run = Tokens(10);
  EXPECT_TRUE(IsVisible(causal, run, 3, 3));
  EXPECT_FALSE(IsVisible(causal, run, 3, 4));
  EXPECT_TRUE(IsVisible({.mask_offset = 1}, run, 3, 4));
  EXPECT_TRUE(IsVisible({.window = 2}, run, 3, 2));
  EXPECT_FALSE(IsVisible({.window = 2}, run, 3, 1));
  EXPECT_TRUE(IsVisible({.causal = false}, run, 0, 9));
  run.ends = {8, 8, 8, 8, 8, 8, 8, 8, 9, 10};
  EXPECT_TRUE(IsVisible({.causal = false}, run, 0, 7));
  EXPECT_FALSE(IsVisible({.causal = false}, run, 0, 8)) << "a key of a later call";
  EXPECT_TRUE(IsVisible({.causal = false}, run, 8, 8));
  EXPECT_EQ(run.CallOf(3), std::pair(std::int64_t{0}, std::int64_t{8}));
  EXPECT_EQ(run.CallOf(9), std::pair(std::int64_t{9}, std::int64_t{10}));
}

// Odd sizes around the kernel's blocks of rows and tokens, against a plain sum in the same order: equal to the bit.
TEST(Linear, EqualsAPlainSumForEverySize) {
  for (const std::int64_t tokens : {1, 2, 15, 16, 17, 33}) {
    for (const std::int64_t out : {1, 3, 4, 5, 67}) {
      const std::int64_t in = 37;
      const OwnedWeight w({out, in}, 4);
      const Value x = RandomValue({tokens, in}, 5);
      const Value y = ComputeLinear({}, x, w.weight, nullptr, Policy("f64"));
      for (std::int64_t t = 0; t < tokens; ++t) {
        for (std::int64_t o = 0; o < out; ++o) {
          double sum = 0;
          for (std::int64_t i = 0; i < in; ++i)
            sum += static_cast<double>(w.values[static_cast<std::size_t>(o * in + i)]) *
                   x.row(t)[static_cast<std::size_t>(i)];
          ASSERT_EQ(y.row(t)[static_cast<std::size_t>(o)], sum);
        }
      }
    }
  }
}

TEST(Norm, RmsOfAConstantRowIsItsSign) {
  Value x({1, 4});
  x.data = {-3, -3, -3, -3};
  const Value y = ComputeNorm({.eps = 0}, x, nullptr, nullptr, Policy("f64"));
  for (const double value : y.data) EXPECT_DOUBLE_EQ(value, -1);
}

TEST(TopExperts, NaNChoosesNothingAndEqualsKeepTheirOrder) {
  Value probs({3, 4});
  probs.data = {0.1, 0.4, 0.4, 0.1, kNaN, 0.5, 0.3, 0.2, 0.7, 0.1, 0.1, 0.1};
  const Value top = ComputeTopExperts({.experts = 4, .used = 2}, probs);
  EXPECT_EQ(std::vector(top.row(0).begin(), top.row(0).end()), (std::vector<double>{1, 2}));
  EXPECT_TRUE(std::isnan(top.row(1)[0]) && std::isnan(top.row(1)[1]));
  EXPECT_EQ(std::vector(top.row(2).begin(), top.row(2).end()), (std::vector<double>{0, 1}));
  const Value weights = ComputeExpertWeights({.normalised = true}, probs, top, Policy("f64"));
  EXPECT_EQ(weights.row(0)[0], 0.5);
  EXPECT_TRUE(std::isnan(weights.row(1)[0]));
  EXPECT_DOUBLE_EQ(weights.row(2)[0] + weights.row(2)[1], 1);
}

TEST(Experts, SumOfEachTokensOwn) {
  const OwnedWeight up({6, 4}, 1), down({4, 6}, 2), other_up({6, 4}, 3), other_down({4, 6}, 4);
  Graph graph;
  const Expert first{.up = graph.AddWeight(up.weight), .down = graph.AddWeight(down.weight)};
  const Expert second{.up = graph.AddWeight(other_up.weight), .down = graph.AddWeight(other_down.weight)};
  const ExpertsOp op{.function = Activation::kRelu, .experts = {first, second}};
  const Value x = RandomValue({2, 4}, 5);
  Value experts({2, 2}), weights({2, 2});
  experts.data = {1, 0, kNaN, kNaN};
  weights.data = {0.75, 0.5, kNaN, kNaN};
  const Value y = ComputeExperts(op, x, experts, weights, graph, nullptr, Policy("f64"));
  const auto alone = [&](const OwnedWeight& in, const OwnedWeight& out) {
    const Value inside = ComputeLinear({}, x, in.weight, nullptr, Policy("f64"));
    const Value* input[] = {&inside};
    return ComputeLinear({}, ComputeActivation({Activation::kRelu}, input, Policy("f64")), out.weight, nullptr,
                         Policy("f64"));
  };
  const Value a = alone(up, down), b = alone(other_up, other_down);
  for (std::size_t c = 0; c < 4; ++c) {
    EXPECT_EQ(y.row(0)[c], 0.75 * b.row(0)[c] + 0.5 * a.row(0)[c]);
    EXPECT_TRUE(std::isnan(y.row(1)[c]));  // no experts are known for this token
  }
}

TEST(Add, MissingTermsAndFactors) {
  const Value a = RandomValue({2, 3}, 1), b = RandomValue({2, 3}, 2);
  const Value* both[] = {&a, &b};
  const Value sum = ComputeAdd({.factors = {2, 1}}, both, Policy("f64"));
  EXPECT_EQ(sum.data[4], 2 * a.data[4] + b.data[4]);
}

TEST(Pool, MakesOneRowOfAllTokens) {
  Value x({3, 2});
  x.data = {1, -4, 2, 8, 6, 2};
  struct Case {
    PoolMode mode;
    std::vector<double> expected;
  };
  for (const Case& test :
       {Case{PoolMode::kFirst, {1, -4}}, Case{PoolMode::kLast, {6, 2}}, Case{PoolMode::kMean, {3, 2}},
        Case{PoolMode::kMax, {6, 8}}, Case{PoolMode::kMeanSqrt, {9 / std::sqrt(3.0), 6 / std::sqrt(3.0)}},
        Case{PoolMode::kWeightedMean, {23.0 / 6, 18.0 / 6}}}) {
    EXPECT_EQ(ComputePool({{test.mode}}, x, Policy("f64")).data, test.expected) << Name(test.mode);
  }
  EXPECT_EQ(ComputePool({{PoolMode::kFirst, PoolMode::kMax}}, x, Policy("f64")).data,
            (std::vector<double>{1, -4, 6, 8}));
  x.data[2] = kNaN;
  EXPECT_TRUE(std::isnan(ComputePool({{PoolMode::kMax}}, x, Policy("f64")).data[0]));
}

TEST(Unit, DividesByTheLengthAndLeavesZeroAlone) {
  Value x({2, 2});
  x.data = {3, 4, 0, 0};
  EXPECT_EQ(ComputeUnit(x, Policy("f64")).data, (std::vector<double>{0.6, 0.8, 0, 0}));
}

}  // namespace
}  // namespace paritrace
