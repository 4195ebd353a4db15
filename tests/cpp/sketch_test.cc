#include "trace/sketch.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <limits>
#include <numbers>
#include <numeric>
#include <random>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "trace/digest.h"
#include "trace/trace.h"
#include "trace/trace_writer.h"

namespace paritrace {
namespace {

namespace fs = std::filesystem;
using Random = std::mt19937_64;

// Not std::normal_distribution: its sequence is the library's own, and the seeds here stand for known data.
double Normal(Random& random) {
  const auto uniform = [&] { return (static_cast<double>(random() >> 11) + 0.5) * 0x1p-53; };
  const double radius = std::sqrt(-2 * std::log(uniform()));
  return radius * std::cos(2 * std::numbers::pi * uniform());
}

std::vector<double> Values(std::int64_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<double> values(static_cast<std::size_t>(count));
  for (double& value : values) value = Normal(random);
  return values;
}

Sketch SketchOf(const Shape& shape, std::span<const double> values) {
  Sketch sketch(shape);
  sketch.Add(0, values);
  return sketch;
}

std::vector<double> Buckets(const Sketch& sketch) {
  std::vector<double> all;
  for (std::int64_t group = 0; group < sketch.plan().groups; ++group) {
    const auto one = sketch.Group(group);
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

double Energy(std::span<const double> values) {
  return std::inner_product(values.begin(), values.end(), values.begin(), 0.0);
}

struct PlanCase {
  const char* name;
  Shape shape;
  std::int64_t positions, groups, buckets;
  bool exact;
};
class SketchPlanTest : public ::testing::TestWithParam<PlanCase> {};
TEST_P(SketchPlanTest, FollowsFromTheShape) {
  const PlanCase& row = GetParam();
  const SketchPlan plan(row.shape);
  EXPECT_EQ(plan.positions, row.positions);
  EXPECT_EQ(plan.groups, row.groups);
  EXPECT_EQ(plan.buckets, row.buckets);
  EXPECT_EQ(plan.exact, row.exact);
  EXPECT_LE(plan.groups * plan.buckets, SketchPlan::kBuckets);
  std::int64_t positions = 0;
  for (std::int64_t group = 0; group < plan.groups; ++group) {
    EXPECT_GT(plan.PositionsIn(group), 0);
    positions += plan.PositionsIn(group);
  }
  EXPECT_EQ(positions, plan.groups > 0 ? plan.positions : 0);
}
INSTANTIATE_TEST_SUITE_P(Table, SketchPlanTest,
                         ::testing::Values(PlanCase{"Empty", {0, 8}, 1, 0, 0, false},  //
                                           PlanCase{"Scalar", {}, 1, 1, 1, true},
                                           PlanCase{"OneAxis", {5000}, 1, 1, 1024, false},
                                           PlanCase{"OneToken", {1, 8192}, 1, 1, 1024, false},
                                           PlanCase{"Small", {10, 64}, 10, 10, 64, true},
                                           PlanCase{"Tokens32", {32, 8192}, 32, 32, 32, false},
                                           PlanCase{"Tokens33", {33, 8192}, 33, 17, 32, false},
                                           PlanCase{"ManyTokens", {4096, 64}, 4096, 32, 32, false},
                                           PlanCase{"ManyTiny", {640, 1}, 640, 32, 20, true},
                                           PlanCase{"Scores", {8, 32, 32}, 32, 32, 32, false},
                                           PlanCase{"LeadingOnes", {1, 1, 32, 8192}, 32, 32, 32, false}),
                         [](const auto& row) { return row.param.name; });

const std::vector<Shape> kShapes = {{32, 256}, {1, 4096}, {10, 64}, {33, 100}, {4, 10, 48}, {7}};

TEST(SketchTest, IsLinear) {
  for (const Shape& shape : kShapes) {
    const std::int64_t count = *ElementCount(shape);
    const auto a = Values(count, 1), b = Values(count, 2);
    std::vector<double> sum(a.size());
    for (std::size_t i = 0; i < a.size(); ++i) sum[i] = a[i] + b[i];
    Sketch merged = SketchOf(shape, a);
    merged.Merge(SketchOf(shape, b));
    const auto expected = Buckets(SketchOf(shape, sum)), found = Buckets(merged);
    for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-12) << ToString(shape);
  }
}

// Shards, chunks and ranks: any cut, merged in any order, is the sketch of the whole up to the rounding of f64 sums.
TEST(SketchTest, PartsAddUpToTheWhole) {
  for (const Shape& shape : kShapes) {
    const std::int64_t count = *ElementCount(shape);
    const auto values = Values(count, 3);
    const auto whole = Buckets(SketchOf(shape, values));
    for (const std::int64_t piece : {1, 5, 48, 1000}) {
      std::vector<Sketch> parts(3, Sketch(shape));
      for (std::int64_t begin = 0, turn = 0; begin < count; begin += piece, ++turn) {
        const auto size = static_cast<std::size_t>(std::min(piece, count - begin));
        parts[static_cast<std::size_t>(turn % 3)].Add(begin,
                                                      std::span(values).subspan(static_cast<std::size_t>(begin), size));
      }
      parts[2].Merge(parts[0]);
      parts[2].Merge(parts[1]);
      const auto merged = Buckets(parts[2]);
      for (std::size_t i = 0; i < whole.size(); ++i)
        EXPECT_NEAR(merged[i], whole[i], 1e-12 * (1 + std::fabs(whole[i])));
    }
    // In one sketch and in order, to the bit.
    Sketch chunked(shape);
    for (std::int64_t begin = 0; begin < count; begin += 77)
      chunked.Add(begin,
                  std::span(values).subspan(static_cast<std::size_t>(begin),
                                            static_cast<std::size_t>(std::min<std::int64_t>(77, count - begin))));
    EXPECT_EQ(Buckets(chunked), whole) << ToString(shape);
  }
}

// What stands in digests that people have sent to each other may never change.
TEST(SketchTest, IsTheSameEverywhereAndForever) {
  std::vector<double> ramp(2 * 2000);
  std::iota(ramp.begin(), ramp.end(), -1000.0);
  const std::string text = SketchOf({2, 2000}, ramp).Encode();
  EXPECT_EQ(text.size(), 4u + 4 * ((2 * (2 + 3 * 512) + 2) / 3));
  EXPECT_EQ(text.substr(0, 36), "pt2:9/8AQuEA6N8A+gEA8AsACu4AJOwAUhIA");
  // Worked out by hand: step 2^-21 (exponent eb ff), then 2^21, -2^22, 2^20 in three bytes each.
  EXPECT_EQ(SketchOf({1, 3}, std::vector<double>{1, -2, 0.5}).Encode(), "pt2:6/8AACAAAMAAABA=");
  EXPECT_EQ(SketchOf({1, 1, 2, 2000}, ramp).Encode(), text) << "leading axes of size 1 do not count";
}

TEST(SketchTest, TextReadsBack) {
  for (const Shape& shape : kShapes) {
    for (const double scale : {1.0, 1e-300, 1e300, 0.0}) {
      auto values = Values(*ElementCount(shape), 4);
      for (double& value : values) value *= scale;
      const Sketch sketch = SketchOf(shape, values);
      const auto read = Sketch::Decode(sketch.Encode(), shape);
      ASSERT_TRUE(read) << ToString(shape);
      const auto before = Buckets(sketch), after = Buckets(*read);
      for (std::size_t i = 0; i < before.size(); ++i) {
        const double step = read->Step(static_cast<std::int64_t>(i) / read->plan().buckets);
        ASSERT_LE(std::fabs(before[i] - after[i]), step / 2);
        ASSERT_EQ(step == 0, scale == 0);
      }
    }
  }
}

TEST(SketchTest, WhatIsNoSketchIsNoError) {
  const Shape shape = {32, 256};
  const std::string text = SketchOf(shape, Values(32 * 256, 5)).Encode();
  EXPECT_TRUE(Sketch::Decode(text, shape));
  for (const std::string& broken :
       {std::string(), std::string("pt2:"), text.substr(4), "pt1:" + text.substr(4), text.substr(0, text.size() - 4),
        text.substr(0, text.size() - 1), text + "AAAA", "pt2:" + std::string(text.size() - 4, '*')}) {
    EXPECT_FALSE(Sketch::Decode(broken, shape)) << broken.substr(0, 12);
  }
  EXPECT_FALSE(Sketch::Decode(text, {16, 64}));
  EXPECT_TRUE(Sketch::Decode("pt2:", {0, 4})) << "an empty tensor has nothing to say, and says it";
}

TEST(SketchTest, NonFiniteValuesAreCountedAndPoisonNothing) {
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();
  const Shape shape = {32, 256};
  auto values = Values(32 * 256, 6);
  auto with_zeros = values;
  for (const std::size_t i : {0u, 100u, 101u, 8000u}) {
    values[i] = i == 100 ? -kInf : kNaN;
    with_zeros[i] = 0;
  }
  const Sketch sketch = SketchOf(shape, values);
  EXPECT_EQ(sketch.nan(), 3);
  EXPECT_EQ(sketch.inf(), 1);
  EXPECT_EQ(Buckets(sketch), Buckets(SketchOf(shape, with_zeros)));
  EXPECT_EQ(SketchOf({1, 2000}, std::vector<double>(2000, std::numeric_limits<double>::max())).Encode(), "");
}

TEST(SketchTest, RefusesWhatDoesNotFit) {
  Sketch sketch({2, 3});
  const std::vector<double> values(7);
  EXPECT_THROW(sketch.Add(0, values), InternalError);
  EXPECT_THROW(sketch.Add(6, std::span(values).first(1)), InternalError);
  EXPECT_THROW(sketch.Add(-1, std::span(values).first(1)), InternalError);
  EXPECT_THROW(sketch.Merge(Sketch({3, 2})), InternalError);
  EXPECT_THROW((void)EstimateDifference(sketch, Sketch({6})), InternalError);
}

TEST(SketchTest, EqualTensorsDifferByNothing) {
  for (const Shape& shape : kShapes) {
    const auto text = SketchOf(shape, Values(*ElementCount(shape), 7)).Encode();
    const DifferenceEstimate found = EstimateDifference(*Sketch::Decode(text, shape), *Sketch::Decode(text, shape));
    EXPECT_EQ(found.total.value, 0);
    EXPECT_EQ(found.total.low, 0);
    EXPECT_LT(found.total.high, 1e-11 * static_cast<double>(*ElementCount(shape)));
  }
}

TEST(SketchTest, OnlyTheGroupsAskedForCount) {
  const Shape shape = {32, 512};
  const auto a = Values(32 * 512, 8);
  auto b = a;
  for (std::size_t i = 5 * 512; i < 6 * 512; ++i) b[i] += 0.5;
  std::vector<bool> without(32, true);
  without[5] = false;
  const Sketch ours = SketchOf(shape, a), theirs = SketchOf(shape, b);
  EXPECT_EQ(EstimateDifference(ours, theirs, without).total.value, 0);
  const DifferenceEstimate all = EstimateDifference(ours, theirs);
  EXPECT_GT(all.groups[5].low, 0);
  EXPECT_EQ(all.groups[4].high, 0) << "values and sketches in f64: nothing was rounded";
  EXPECT_NEAR(all.total.value / (512 * 0.25), 1, 1);
}

// What the error of a run looks like.
struct ErrorKind {
  const char* name;
  std::function<void(Random&, const SketchPlan&, std::span<const double> values, std::span<double> error)> make;
};

std::size_t Pick(Random& random, std::int64_t below) { return random() % static_cast<std::uint64_t>(below); }

const std::vector<ErrorKind> kErrors = {
    {"a single wrong token",
     [](Random& random, const SketchPlan& plan, auto, std::span<double> error) {
       const auto token = static_cast<std::int64_t>(Pick(random, plan.positions));
       for (std::size_t i = 0; i < error.size(); ++i)
         if (plan.PositionOf(static_cast<std::int64_t>(i)) == token) error[i] = Normal(random);
     }},
    {"heavy tails: Student's t with 2 degrees of freedom",
     [](Random& random, const SketchPlan&, auto, std::span<double> error) {
       for (double& e : error) {
         const double x = Normal(random), y = Normal(random), z = Normal(random);
         e = z / std::sqrt((x * x + y * y) / 2);
       }
     }},
    {"heavy tails: cubes",
     [](Random& random, const SketchPlan&, auto, std::span<double> error) {
       for (double& e : error) {
         e = Normal(random);
         e = e * e * e;
       }
     }},
    {"a few wrong values",
     [](Random& random, const SketchPlan&, auto, std::span<double> error) {
       for (int i = 0; i < 3; ++i) error[Pick(random, static_cast<std::int64_t>(error.size()))] += Normal(random);
     }},
    {"two equal errors in one token",
     [](Random& random, const SketchPlan& plan, auto, std::span<double> error) {
       const std::size_t row = Pick(random, static_cast<std::int64_t>(error.size()) / plan.last);
       for (int i = 0; i < 2; ++i) error[row * static_cast<std::size_t>(plan.last) + Pick(random, plan.last)] = 1;
     }},
    {"one channel of all tokens",
     [](Random& random, const SketchPlan& plan, auto, std::span<double> error) {
       const std::size_t channel = Pick(random, plan.last);
       for (std::size_t i = channel; i < error.size(); i += static_cast<std::size_t>(plan.last))
         error[i] = Normal(random);
     }},
    {"rounding of each value",
     [](Random& random, const SketchPlan&, std::span<const double> values, std::span<double> error) {
       for (std::size_t i = 0; i < error.size(); ++i) error[i] = values[i] * Normal(random);
     }},
    {"a wrong scale", [](Random&, const SketchPlan&, std::span<const double> values,
                         std::span<double> error) { std::copy(values.begin(), values.end(), error.begin()); }},
};

const std::vector<Shape> kRunShapes = {{32, 1024}, {1, 4096}, {10, 512}, {100, 256}, {4, 32, 64}, {7, 2048}, {10, 64}};

struct Coverage {
  int pairs = 0, covered = 0;
  int groups_covered = 0;  // pairs where the intervals of all groups hold
  double worst = 0;        // largest |log(estimate / truth)|
};

// Pairs of known NMSE, evenly from 1e-10 to 1, through the text of two digests.
Coverage Cover(int pairs, std::uint64_t seed) {
  Coverage out;
  for (int pair = 0; pair < pairs; ++pair) {
    Random random(seed * 1'000'003 + static_cast<std::uint64_t>(pair));
    const Shape& shape = kRunShapes[static_cast<std::size_t>(pair) % kRunShapes.size()];
    const ErrorKind& kind = kErrors[static_cast<std::size_t>(pair / 2) % kErrors.size()];
    const SketchPlan plan(shape);
    std::vector<double> channels(static_cast<std::size_t>(plan.last));
    for (double& channel : channels) channel = std::exp(1.5 * Normal(random));  // outlier channels, as models have
    std::vector<double> ours(static_cast<std::size_t>(plan.values)), error(ours.size());
    for (std::size_t i = 0; i < ours.size(); ++i) ours[i] = Normal(random) * channels[i % channels.size()];
    kind.make(random, plan, ours, error);
    const double nmse = std::pow(10.0, -10.0 * pair / (pairs - 1));
    const double factor = std::sqrt(nmse * Energy(ours) / Energy(error));
    std::vector<double> theirs(ours.size()), groups(static_cast<std::size_t>(plan.groups));
    for (std::size_t i = 0; i < ours.size(); ++i) {
      theirs[i] = ours[i] + factor * error[i];
      const double d = theirs[i] - ours[i];
      groups[static_cast<std::size_t>(plan.GroupOf(static_cast<std::int64_t>(i)))] += d * d;
    }
    const double truth = std::accumulate(groups.begin(), groups.end(), 0.0);
    const auto a = Sketch::Decode(SketchOf(shape, ours).Encode(), shape);
    const auto b = Sketch::Decode(SketchOf(shape, theirs).Encode(), shape);
    const DifferenceEstimate found = EstimateDifference(*a, *b);
    ++out.pairs;
    const auto holds = [](const Estimate& e, double value) { return e.low <= value && value <= e.high; };
    out.covered += holds(found.total, truth);
    bool all = true;
    for (std::size_t g = 0; g < groups.size(); ++g) all = all && holds(found.groups[g], groups[g]);
    out.groups_covered += all;
    out.worst = std::max(out.worst, std::fabs(std::log(found.total.value / truth)));
    if (!holds(found.total, truth)) {
      fmt::print("missed: {} {}: nmse {:.2e}, estimate {:.3f} of it, interval {:.3f} to {:.3f}\n", ToString(shape),
                 kind.name, nmse, found.total.value / truth, found.total.low / truth, found.total.high / truth);
    }
  }
  return out;
}

TEST(SketchTest, TheErrorBarCoversTheTruthIn95Of100) {
  for (const std::uint64_t seed : {1, 2, 3}) {
    const Coverage found = Cover(200, seed);
    EXPECT_GE(found.covered, 190) << "of 200 pairs, seed " << seed;
    EXPECT_GE(found.groups_covered, 190) << "of 200 pairs, seed " << seed;
    RecordProperty(fmt::format("covered_{}", seed), found.covered);
  }
}

// Narrow enough to be of use: 1024 buckets over 32 tokens tell an error that is spread over all to about 15 %.
TEST(SketchTest, TheErrorBarIsNarrow) {
  const Shape shape = {32, 2048};
  const auto ours = Values(32 * 2048, 10), error = Values(32 * 2048, 11);
  for (const double factor : {1e-5, 1e-3, 1.0}) {
    auto theirs = ours;
    for (std::size_t i = 0; i < theirs.size(); ++i) theirs[i] += factor * error[i];
    const auto a = Sketch::Decode(SketchOf(shape, ours).Encode(), shape);
    const auto b = Sketch::Decode(SketchOf(shape, theirs).Encode(), shape);
    const Estimate found = EstimateDifference(*a, *b).total;
    EXPECT_LT(found.high / found.low, 1.3) << factor;
  }
}

// 80 layers, hidden 8192, 20 sites a layer, 32 tokens. Every line of the index has the same length but for its name and
// the digits of its numbers, so that a few layers tell the size of all. PARITRACE_FULL_DIGEST=1 makes all 80.
TEST(DigestTest, OfA70BShapedRunIsAtMost10MB) {
  const bool full = std::getenv("PARITRACE_FULL_DIGEST") != nullptr;
  const int layers = full ? 80 : 1, sites = 20, whole = 80;
  const std::string path = (fs::path(::testing::TempDir()) / "digest_70b").string();
  fs::remove_all(path);
  std::vector<float> values(32 * 8192);
  TraceWriter writer(path, {{"engine", {{"name", "toy"}}}}, TraceWriter::Mode::kDigest);
  Random random(12);
  for (int layer = 0; layer < layers; ++layer) {
    for (int site = 0; site < sites; ++site) {
      // Uniform bits in place of normal values: the size of the text is the same, and they are made faster.
      for (float& value : values) value = static_cast<float>(static_cast<std::int64_t>(random()) * 0x1p-62);
      // Full length, whatever the layer: the longest names that the sites and Hugging Face have.
      const int number = 79 - layer;
      writer.Record(0, fmt::format("model.layers.{}.post_attention_layernorm.{:02}", number, site),
                    site == 0 ? fmt::format("layers.{}.attn.residual", number)
                              : fmt::format("layers.{}.mlp.act_{}", number, site),
                    {"", DType::kF32, {1, 32, 8192}, std::as_bytes(std::span(values))});
    }
  }
  writer.Close();
  std::uintmax_t bytes = 0;
  for (const auto& file : fs::directory_iterator(path)) bytes += file.file_size();
  const double total = static_cast<double>(bytes) * whole / layers;  // the header counts 80 times, too
  fmt::print("{} bytes a tensor, {:.2f} MB for {} tensors\n", bytes / static_cast<std::uintmax_t>(layers * sites),
             total / 1e6, whole * sites);
  EXPECT_LE(total, 10e6);
  fs::remove_all(path);
}

TEST(DigestTest, KeepsTheNormOfEachPosition) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> values = {3, 4, kNaN, 2, 0, 0};
  const TensorDigest digest = DigestOf({"", DType::kF32, {3, 2}, std::as_bytes(std::span(values))}, "layers.0.in");
  ASSERT_EQ(digest.position_rms.size(), 3u);
  EXPECT_NEAR(digest.position_rms[0], std::sqrt(12.5), 1e-6);
  EXPECT_NEAR(digest.position_rms[1], std::sqrt(2.0), 1e-6) << "what is left out counts as 0";
  EXPECT_EQ(digest.position_rms[2], 0);
}

TEST(DigestTest, MaskedScoresAreLeftOut) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const std::vector<float> lowest = {1, -3.4e38F, 2, 3}, infinite = {1, -kInf, 2, 3};
  const auto of = [](const std::vector<float>& values, const char* site) {
    return DigestOf({"", DType::kF32, {1, 2, 2}, std::as_bytes(std::span(values))}, site);
  };
  EXPECT_EQ(of(lowest, "layers.0.attn.scores").sketch, of(infinite, "layers.0.attn.scores").sketch);
  EXPECT_EQ(of(lowest, "layers.0.attn.scores").position_rms, of(infinite, "layers.0.attn.scores").position_rms);
  EXPECT_NE(of(lowest, "layers.0.in").sketch, of(infinite, "layers.0.in").sketch);
}

}  // namespace
}  // namespace paritrace
