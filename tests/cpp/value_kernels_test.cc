// The loops behind statistics and sketches: against sums in long double, on every CPU target, with the same bits on each.
#include "trace/value_kernels.h"

#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/cpu_target.h"
#include "trace/row_kernel.h"

namespace paritrace {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();
constexpr std::array<std::size_t, 12> kLengths = {0, 1, 7, 8, 15, 16, 17, 2047, 2048, 2049, 4096 + 33, 10'000};

template <typename T>
std::vector<T> Values(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0.3, 4);
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(normal(random));
  return values;
}

// Every target this CPU has, one after the other.
template <typename Body>
void OnEveryTarget(const Body& body) {
  for (const CpuTarget target : {CpuTarget::kBaseline, CpuTarget::kAvx2, CpuTarget::kAvx512}) {
    if (ForceCpuTarget(target)) body(target);
  }
  ForceCpuTarget(std::nullopt);
}

struct Expected {
  long double sum = 0, squares = 0, absolute = 0;
  double min = kInf, max = -kInf;
  std::int64_t nan = 0, inf = 0, masked = 0;
};

template <typename T>
Expected OneByOne(const std::vector<T>& values, double mask_bound) {
  Expected out;
  for (const T stored : values) {
    const double value = static_cast<double>(stored);
    if (value <= mask_bound) {
      ++out.masked;
    } else if (std::isnan(value)) {
      ++out.nan;
    } else if (std::isinf(value)) {
      ++out.inf;
    } else {
      out.sum += value;
      out.absolute += std::fabs(value);
      out.squares += static_cast<long double>(value) * value;
      out.min = std::min(out.min, value);
      out.max = std::max(out.max, value);
    }
  }
  return out;
}

template <typename T>
void ExpectMoments(const std::vector<T>& values, double mask_bound) {
  const Expected expected = OneByOne(values, mask_bound);
  std::vector<Moments> results;
  OnEveryTarget([&](CpuTarget target) {
    Moments moments;
    AddMoments(values.data(), static_cast<std::int64_t>(values.size()), mask_bound, moments);
    SCOPED_TRACE(::testing::Message() << values.size() << " values, target " << static_cast<int>(target));
    EXPECT_EQ(moments.nan, expected.nan);
    EXPECT_EQ(moments.inf, expected.inf);
    EXPECT_EQ(moments.masked, expected.masked);
    EXPECT_EQ(moments.min, expected.min);
    EXPECT_EQ(moments.max, expected.max);
    // A sum of n roundings of at most half a unit of the sum of magnitudes each.
    const double n = static_cast<double>(values.size()) + 1, unit = std::numeric_limits<double>::epsilon();
    EXPECT_LE(std::fabs(moments.Sum() - static_cast<double>(expected.sum)),
              n * unit * static_cast<double>(expected.absolute));
    EXPECT_LE(std::fabs(moments.Squares() - static_cast<double>(expected.squares)),
              n * unit * static_cast<double>(expected.squares));
    results.push_back(moments);
  });
  for (const Moments& other : results) {
    EXPECT_EQ(std::bit_cast<std::uint64_t>(other.Sum()), std::bit_cast<std::uint64_t>(results[0].Sum()));
    EXPECT_EQ(std::bit_cast<std::uint64_t>(other.Squares()), std::bit_cast<std::uint64_t>(results[0].Squares()));
  }
}

TEST(ValueKernels, MomentsAreThoseOfLongDoubleOnEveryTarget) {
  for (const std::size_t length : kLengths) {
    ExpectMoments(Values<float>(length, 1), kNaN);
    ExpectMoments(Values<double>(length, 2), kNaN);
    ExpectMoments(Values<float>(length, 3), -2.5);
  }
}

TEST(ValueKernels, WhatIsNotFiniteIsCountedWhereverItStands) {
  for (const std::size_t at : {0, 5, 16, 2046, 2047, 2048, 3999}) {
    for (const double bad : {kNaN, -kNaN, kInf, -kInf}) {
      auto floats = Values<float>(4000, 4);
      auto doubles = Values<double>(4000, 5);
      floats[at] = static_cast<float>(bad);
      doubles[at] = bad;
      for (const double mask_bound : {kNaN, -1e30}) {
        ExpectMoments(floats, mask_bound);
        ExpectMoments(doubles, mask_bound);
      }
    }
  }
  ExpectMoments(std::vector<float>(100, static_cast<float>(kNaN)), kNaN);
  ExpectMoments(std::vector<float>(100, static_cast<float>(-kInf)), -1e30);
}

// Squares of finite values that are too large for a double look like infinity, and are none.
TEST(ValueKernels, SquaresMayOverflowWhereNoValueDoes) {
  const std::vector<double> values(100, -1e200);
  OnEveryTarget([&](CpuTarget) {
    Moments moments;
    AddMoments(values.data(), 100, kNaN, moments);
    EXPECT_EQ(moments.inf, 0);
    EXPECT_EQ(moments.min, -1e200);
    EXPECT_EQ(moments.Squares(), kInf);
    EXPECT_DOUBLE_EQ(moments.Sum(), -1e202);
  });
}

// The formula of docs/trace-format.md, value by value.
template <typename T>
std::vector<double> SketchOneByOne(const std::vector<T>& values, std::int64_t column, std::uint64_t first,
                                   std::int64_t width) {
  std::vector<double> buckets(static_cast<std::size_t>(4 * width));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint64_t at = static_cast<std::uint64_t>(column) + i, lane = at % 8;
    std::uint64_t z = (first + at / 8) * 0x9e3779b97f4a7c15u + 0x7061726974726163u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    for (std::uint64_t hash = 0; hash < 4; ++hash) {
      const std::uint64_t v = z >> (16 * hash) & 0xffff;
      const std::uint64_t slot = (v >> 11) * (static_cast<std::uint64_t>(width) / 8) / 32,
                          turned = (lane + (v >> 8)) % 8;
      buckets[hash * static_cast<std::uint64_t>(width) + 8 * slot + turned] +=
          (v >> turned & 1) != 0 ? -static_cast<double>(values[i]) : static_cast<double>(values[i]);
    }
  }
  return buckets;
}

// Rows of every length and place, on every target: the documented sketch of what is kept, and its squares.
template <typename T>
void ExpectSketches(double mask_bound, bool with_odd_ones) {
  for (const std::int64_t width : {8, 16, 80, 256}) {
    for (const std::int64_t column : {0, 3, 8, 1021}) {
      for (const std::size_t length : {1, 5, 8, 64, 513, 2000}) {
        auto values = Values<T>(length, 7);
        for (std::size_t i = 0; with_odd_ones && i < length; i += 5)
          values[i] = static_cast<T>(std::array{kNaN, kInf, -kInf, -100.0, -0.0}[i / 5 % 5]);
        auto kept = values;
        long double squares = 0;
        for (T& value : kept) {
          if (!std::isfinite(value) || static_cast<double>(value) <= mask_bound) value = 0;
          squares += static_cast<long double>(value) * value;
        }
        const auto expected = SketchOneByOne(kept, column, 1234567, width);
        std::vector<double> sums;
        OnEveryTarget([&](CpuTarget) {
          std::vector<double> buckets(expected.size());
          sums.push_back(AddRow(values.data(), column, static_cast<std::int64_t>(length), mask_bound, 1234567, width,
                                buckets.data()));
          EXPECT_EQ(buckets, expected) << width << " " << column << " " << length;
        });
        EXPECT_NEAR(sums[0], static_cast<double>(squares), 1e-12 * static_cast<double>(squares));
        for (const double sum : sums)
          EXPECT_EQ(std::bit_cast<std::uint64_t>(sum), std::bit_cast<std::uint64_t>(sums[0]));
      }
    }
  }
}

TEST(ValueKernels, SketchesFollowTheDocumentedFormula) {
  ExpectSketches<float>(kNaN, false);
  ExpectSketches<double>(kNaN, false);
}

TEST(ValueKernels, SketchesLeaveOutWhatIsNotFiniteOrMasked) {
  for (const double mask_bound : {kNaN, -50.0}) {
    ExpectSketches<float>(mask_bound, true);
    ExpectSketches<double>(mask_bound, true);
  }
}

// A row adds to what earlier rows of its group left.
TEST(ValueKernels, SketchesAddToWhatIsThere) {
  const auto values = Values<float>(1000, 8);
  OnEveryTarget([&](CpuTarget) {
    std::vector<double> once(4 * 8), twice(4 * 8);
    (void)AddRow(values.data(), 0, 1000, kNaN, 5, 8, once.data());
    for (int i = 0; i < 2; ++i) (void)AddRow(values.data(), 0, 1000, kNaN, 5, 8, twice.data());
    for (std::size_t i = 0; i < once.size(); ++i) EXPECT_NEAR(twice[i], 2 * once[i], 1e-9) << i;
  });
}

}  // namespace
}  // namespace paritrace
