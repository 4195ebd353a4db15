#include "graph/arithmetic.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

#include <gtest/gtest.h>

#include "core/decode.h"

namespace paritrace {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// The storage formats against the bit-level conversions of core/decode.h, over the whole range, subnormals included.
TEST(Round, AgreesWithTheBitConversions) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> exponent(-45, 38), mantissa(-10, 10);
  for (int i = 0; i < 200000; ++i) {
    const auto x = static_cast<float>(mantissa(random) * std::pow(10.0, exponent(random)));
    EXPECT_EQ(Round(Rounding::kBF16, x), static_cast<double>(BFloatToFloat(FloatToBFloat(x)))) << x;
    EXPECT_EQ(Round(Rounding::kF16, x), static_cast<double>(HalfToFloat(FloatToHalf(x)))) << x;
    EXPECT_EQ(Round(Rounding::kF32, x), static_cast<double>(x));
  }
}

// Dropping the low half of an f32's bits is what truncation to bf16 does.
TEST(Round, CuttingDropsTheBitsThatDoNotFit) {
  std::mt19937_64 random(2);
  std::uniform_real_distribution<double> exponent(-45, 38), mantissa(-10, 10);
  for (int i = 0; i < 200000; ++i) {
    const auto x = static_cast<float>(mantissa(random) * std::pow(10.0, exponent(random)));
    if (!std::isfinite(x)) continue;
    const float cut = std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) & 0xFFFF0000U);
    EXPECT_EQ(Round(Rounding::kBF16Cut, x), static_cast<double>(cut)) << x;
  }
  EXPECT_EQ(Round(Rounding::kF16Cut, 1.0 + 1.9 / 1024), 1.0 + 1.0 / 1024);
  EXPECT_EQ(Round(Rounding::kF16Cut, -1.0 - 1.9 / 1024), -1.0 - 1.0 / 1024);
  EXPECT_EQ(Round(Rounding::kF16Cut, 1e6), 65504.0);
  EXPECT_EQ(Round(Rounding::kBF16Cut, kInf), kInf);
  EXPECT_TRUE(std::isnan(Round(Rounding::kF16Cut, kNaN)));
}

TEST(Round, TiesGoToEven) {
  EXPECT_EQ(Round(Rounding::kBF16, 1.0 + 1.0 / 256), 1.0);             // half way, 1.0 is even
  EXPECT_EQ(Round(Rounding::kBF16, 1.0 + 3.0 / 256), 1.0 + 1.0 / 64);  // half way, the upper one is even
  EXPECT_EQ(Round(Rounding::kF16, 2049.0), 2048.0);
}

// Rounding a double to f32 first and to bf16 then gives the wrong neighbour: just above a tie, f32 makes it a tie.
TEST(Round, IsOneRoundingNotTwo) {
  const double above = 1.0 + 1.0 / 256 + 1e-12;
  EXPECT_EQ(Round(Rounding::kBF16, above), 1.0 + 1.0 / 128);
}

TEST(Round, NonFiniteAndOverflow) {
  EXPECT_TRUE(std::isnan(Round(Rounding::kF16, kNaN)));
  EXPECT_EQ(Round(Rounding::kF16, -kInf), -kInf);
  EXPECT_EQ(Round(Rounding::kF16, 65519.0), 65504.0);
  EXPECT_EQ(Round(Rounding::kF16, 65520.0), kInf);
  EXPECT_EQ(Round(Rounding::kBF16, -3.4e38), -kInf);
  EXPECT_EQ(Round(Rounding::kNone, 0.1), 0.1);
}

TEST(UlpDistance, CountsStepsAcrossZero) {
  EXPECT_EQ(UlpDistance(Rounding::kF32, 0.0, -0.0), 0);
  EXPECT_EQ(UlpDistance(Rounding::kF32, 1.0F, std::nextafterf(1.0F, 2)), 1);
  const float tiny = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(UlpDistance(Rounding::kF32, tiny, -tiny), 2);
  EXPECT_EQ(UlpDistance(Rounding::kBF16, 1.0, 1.0 + 1.0 / 128), 1);
  EXPECT_EQ(UlpDistance(Rounding::kBF16, 1.0, kNaN), kInf);
  EXPECT_EQ(UlpDistance(Rounding::kBF16, kNaN, kNaN), 0);
}

TEST(HalfUlp, IsTheLargestRoundingError) {
  std::mt19937_64 random(2);
  std::uniform_real_distribution<double> values(-100, 100);
  for (const Rounding rounding : {Rounding::kF32, Rounding::kF16, Rounding::kBF16}) {
    double largest = 0;
    for (int i = 0; i < 10000; ++i) {
      const double x = values(random), share = std::fabs(Round(rounding, x) - x) / HalfUlp(rounding, x);
      ASSERT_LE(share, 1.0);
      largest = std::max(largest, share);
    }
    EXPECT_GT(largest, 0.9);
  }
}

TEST(FindArithmetic, KnowsTheNamesOfTheContract) {
  for (const char* name :
       {"f64", "f32", "torch-f32", "torch-bf16", "torch-f16", "ggml-cpu", "jax-f32", "jax-bf16", "ort-f32"}) {
    ASSERT_TRUE(FindArithmetic(name)) << name;
    EXPECT_EQ(FindArithmetic(name)->name, name);
  }
  EXPECT_FALSE(FindArithmetic("f33"));
}

}  // namespace
}  // namespace paritrace
