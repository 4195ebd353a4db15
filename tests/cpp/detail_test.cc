#include "compare/detail_stats.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "compare/pair_kernels.h"
#include "compare/pair_stats.h"
#include "core/decode.h"
#include "memory_trace.h"

namespace paritrace {
namespace {

using testing_support::MemoryTrace;
using testing_support::Normal;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Keeps the bytes of its tensors.
class Tensors {
 public:
  const TensorView& Add(DType dtype, Shape shape, const std::vector<double>& values) {
    trace_.Add(0, "t", std::move(shape), values, dtype);
    return trace_.trace().entries.back().tensor;
  }

 private:
  MemoryTrace trace_;
};

DetailStats DetailOf(const TensorView& a, const TensorView& b, const PairLayout& layout) {
  return *ComparePair(a, b, layout, {.progress = nullptr, .detail = true}).detail;
}

bool HeldByF32(DType type) { return type != DType::kF64 && type != DType::kI32; }

// Value by value, by the definition.
DetailStats Plainly(const TensorView& a, const TensorView& b, const PairLayout& layout, const TypePrecision& unit) {
  const std::vector<double> left = DecodeAll(a), right = DecodeAll(b);
  DetailStats stats;
  stats.channel_error.resize(static_cast<std::size_t>(layout.outer * layout.inner));
  stats.channel_energy.resize(stats.channel_error.size());
  for (std::int64_t i = 0; i < layout.Count(); ++i) {
    const double r = left[static_cast<std::size_t>(layout.ReferenceIndex(i))],
                 s = right[static_cast<std::size_t>(layout.SubjectIndex(i))];
    if (!std::isfinite(r) || !std::isfinite(s)) {
      ++stats.skipped;
      continue;
    }
    double difference = r - s;
    if (HeldByF32(a.dtype) && HeldByF32(b.dtype)) {
      const float rounded = static_cast<float>(r) - static_cast<float>(s);
      if (std::isfinite(rounded)) difference = rounded;
    }
    AddExponent(r, s, difference, unit.least_exponent, stats.exponents);
    const auto channel = static_cast<std::size_t>(i / layout.inner / layout.rows * layout.inner + i % layout.inner);
    stats.channel_error[channel] += (r - s) * (r - s);
    stats.channel_energy[channel] += r * r;
  }
  return stats;
}

void ExpectSame(const DetailStats& got, const DetailStats& expected, const std::string& what) {
  EXPECT_EQ(got.exponents.bins, expected.exponents.bins) << what;
  EXPECT_EQ(got.exponents.sign_flips, expected.exponents.sign_flips) << what;
  EXPECT_EQ(got.exponents.max_scaled, expected.exponents.max_scaled) << what;
  EXPECT_EQ(got.skipped, expected.skipped) << what;
  ASSERT_EQ(got.channel_error.size(), expected.channel_error.size()) << what;
  for (std::size_t i = 0; i < got.channel_error.size(); ++i) {
    EXPECT_NEAR(got.channel_error[i], expected.channel_error[i], 1e-12 * expected.channel_error[i])
        << what << " channel " << i;
    EXPECT_NEAR(got.channel_energy[i], expected.channel_energy[i], 1e-12 * expected.channel_energy[i])
        << what << " channel " << i;
  }
}

TEST(DetailStats, EveryTargetTypeAndLengthAgreesWithTheDefinition) {
  for (const std::string& target : KernelTargets()) {
    ForceKernelTarget(target);
    for (const DType a : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16, DType::kI32}) {
      for (const DType b : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16}) {
        for (const std::int64_t columns : {0, 1, 7, 8, 15, 16, 17, 63, 64, 65, 511, 512, 513, 2048 + 5}) {
          constexpr std::int64_t kRows = 5;
          std::vector<double> left = Normal(kRows * columns, 1, 40), right = left;
          for (std::size_t i = 0; i < right.size(); ++i) {
            if (i % 4 == 1) right[i] *= 1 + std::ldexp(1.0, -static_cast<int>(i % 20));
            if (i % 4 == 2) right[i] = -right[i];
            if (i % 11 == 0) left[i] = 0;
            if (i % 13 == 0) right[i] = 0;
          }
          Tensors x, y;
          const TensorView& reference = x.Add(a, {kRows, columns}, left);
          const TensorView& subject = y.Add(b, {kRows, columns}, right);
          const PairLayout layout = ContiguousLayout(kRows, columns);
          const DetailStats got = DetailOf(reference, subject, layout);
          ExpectSame(got, Plainly(reference, subject, layout, got.unit),
                     target + " " + std::string(Name(a)) + "/" + std::string(Name(b)) + " " + std::to_string(columns));
          EXPECT_EQ(got.Counted(), kRows * columns);
        }
      }
    }
  }
  ForceKernelTarget("");
}

// Numbers that few tensors hold, and each must be where the definition has it: what a large exponent stands for in the
// kernels' first look.
TEST(DetailStats, RareValuesAnywhereInATile) {
  struct Rare {
    const char* name;
    double reference, subject;
  };
  const double subnormal = 0x1p-140, large = std::numeric_limits<float>::max();
  const Rare rare[] = {{"NaN", kNaN, 1},
                       {"NaN in the subject", 1, kNaN},
                       {"infinity", 1, -std::numeric_limits<double>::infinity()},
                       {"a difference beyond f32", large, -large},
                       {"a difference just below that", large, -0x1p100},
                       {"zero beside a large value", 0, 1000},
                       {"subnormal beside a large value", subnormal, 1000},
                       {"subnormals", subnormal, -subnormal},
                       {"almost equal small values", 0x1p-126, 0x1p-126 + subnormal},
                       {"smallest normal values", 0x1p-126, -0x1p-126},
                       {"flipped below the least exponent of a half", 0x1p-20, -0x1p-22},
                       {"a difference that f32 rounds up to a power of two", 2 - 0x1p-23, -0x1p-40},
                       {"a new maximum in the last bit", 1, 1 + 0x1.8p0 + 0x1p-23},
                       {"signed zeros", 0, -0.0}};
  for (const std::string& target : KernelTargets()) {
    ForceKernelTarget(target);
    for (const Rare& row : rare) {
      for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
        if (type == DType::kF16 && std::fabs(row.reference) > 65504) continue;
        constexpr std::int64_t kRows = 7, kColumns = 600;
        for (const std::int64_t at : {0, 63, 511, 512, 599, 600 * 3 + 77, 600 * 6 + 599}) {
          std::vector<double> left = Normal(kRows * kColumns, 3), right = left;
          for (double& value : right) value *= 1 + 0x1p-12;
          // The largest so far, which shares all but the last bits with the new one.
          left[5] = 1;
          right[5] = 1 + 0x1.8p0;
          left[static_cast<std::size_t>(at)] = row.reference;
          right[static_cast<std::size_t>(at)] = row.subject;
          Tensors x, y;
          const TensorView& reference = x.Add(type, {kRows, kColumns}, left);
          const TensorView& subject = y.Add(DType::kF32, {kRows, kColumns}, right);
          const PairLayout layout = ContiguousLayout(kRows, kColumns);
          const DetailStats got = DetailOf(reference, subject, layout);
          ExpectSame(got, Plainly(reference, subject, layout, got.unit),
                     target + " " + row.name + " " + std::string(Name(type)) + " at " + std::to_string(at));
        }
      }
    }
  }
  ForceKernelTarget("");
}

// Exponents spread over all there are, so that most lie outside the window that is counted by vectors.
TEST(DetailStats, EveryExponent) {
  std::vector<double> left(1 << 14), right(left.size());
  for (std::size_t i = 0; i < left.size(); ++i) {
    left[i] = std::ldexp(1.0 + static_cast<double>(i % 7) / 8, static_cast<int>(i % 251) - 125);
    right[i] = i % 5 == 0 ? left[i] : std::ldexp(1.0, static_cast<int>(i * 37 % 249) - 124);
  }
  for (const std::string& target : KernelTargets()) {
    ForceKernelTarget(target);
    Tensors x, y;
    const TensorView& reference = x.Add(DType::kF32, {16, 1024}, left);
    const TensorView& subject = y.Add(DType::kBF16, {16, 1024}, right);
    const PairLayout layout = ContiguousLayout(16, 1024);
    const DetailStats got = DetailOf(reference, subject, layout);
    ExpectSame(got, Plainly(reference, subject, layout, got.unit), target);
  }
  ForceKernelTarget("");
}

TEST(DetailStats, ManyChunksAndHeads) {
  Tensors x, y;
  std::vector<double> left = Normal(600 * 4 * 256, 1), right = Normal(600 * 4 * 256, 2);
  right[12345] = kNaN;
  const TensorView& reference = x.Add(DType::kF32, {4, 600, 256}, left);
  const TensorView& subject = y.Add(DType::kBF16, {600, 1024}, right);
  PairLayout layout;
  layout.outer = 4;
  layout.rows = 600;
  layout.inner = 256;
  layout.reference = {.base = 0, .outer_stride = 600 * 256, .row_stride = 256, .inner_stride = 1, .order = {}};
  layout.subject = {.base = 0, .outer_stride = 256, .row_stride = 1024, .inner_stride = 1, .order = {}};
  const DetailStats got = DetailOf(reference, subject, layout);
  ExpectSame(got, Plainly(reference, subject, layout, got.unit), "heads");
  EXPECT_EQ(got.skipped, 1);
}

TEST(DetailStats, RowsLongerThanAPiece) {
  Tensors x, y;
  const std::int64_t columns = 3 * 65536 + 9;
  const TensorView& reference = x.Add(DType::kF32, {2, columns}, Normal(2 * columns, 1));
  const TensorView& subject = y.Add(DType::kF32, {2, columns}, Normal(2 * columns, 2));
  const PairLayout layout = ContiguousLayout(2, columns);
  const DetailStats got = DetailOf(reference, subject, layout);
  ExpectSame(got, Plainly(reference, subject, layout, got.unit), "long");
}

DetailStats Of(DType type, const std::vector<double>& a, const std::vector<double>& b) {
  Tensors x, y;
  const auto n = static_cast<std::int64_t>(a.size());
  return DetailOf(x.Add(type, {1, n}, a), y.Add(type, {1, n}, b), ContiguousLayout(1, n));
}

TEST(DetailStats, UnitsInTheLastPlace) {
  // Neighbours are one unit apart, in whatever type.
  EXPECT_EQ(Of(DType::kF32, {1}, {std::nextafter(1.0f, 2.0f)}).MaxUlp(), 1);
  EXPECT_EQ(Of(DType::kBF16, {1}, {1.0078125}).MaxUlp(), 1);
  EXPECT_EQ(Of(DType::kF16, {1}, {1.0009765625}).MaxUlp(), 1);
  EXPECT_EQ(Of(DType::kF64, {1}, {std::nextafter(1.0, 2.0)}).MaxUlp(), 1);
  // Subnormal halves are 2^-24 apart, all of them.
  EXPECT_EQ(Of(DType::kF16, {0x1p-24}, {0x3p-24}).MaxUlp(), 2);
  EXPECT_EQ(Of(DType::kF32, {-3}, {-3 - 5 * 0x1p-22}).MaxUlp(), 5);
  EXPECT_EQ(Of(DType::kF32, {1, 2}, {1, 2}).MaxUlp(), 0);
  // Mixed types count in units of the coarser.
  Tensors x, y;
  const DetailStats mixed =
      DetailOf(x.Add(DType::kF32, {1, 1}, {1.00390625}), y.Add(DType::kBF16, {1, 1}, {1}), ContiguousLayout(1, 1));
  EXPECT_EQ(mixed.unit.digits, 8);
  EXPECT_EQ(mixed.MaxUlp(), 0.5);
}

TEST(DetailStats, QuantilesBoundTheError) {
  std::vector<double> a(1000, 1), b(1000, 1);
  for (std::size_t i = 0; i < 1000; ++i) {
    if (i >= 500) b[i] = 1 + 0x1p-10;
    if (i >= 990) b[i] = 1.5;
    if (i == 999) a[i] = 0;
  }
  const DetailStats stats = Of(DType::kF32, a, b);
  EXPECT_EQ(stats.RelativeErrorQuantile(0.4), 0);
  EXPECT_EQ(stats.RelativeErrorQuantile(0.9), 0x1p-9);
  EXPECT_EQ(stats.RelativeErrorQuantile(0.999), 1);
  EXPECT_EQ(stats.RelativeErrorQuantile(1), 0x1p127);  // a zero counts as 2^-126
  EXPECT_EQ(stats.UlpQuantile(0.9), 0x1p14);
  EXPECT_EQ(Of(DType::kF32, {}, {}).RelativeErrorQuantile(0.5), 0);
}

TEST(DetailStats, SignsFlipOnlyWhereBothHaveOne) {
  EXPECT_EQ(Of(DType::kF32, {1, -1, 0.0, 1, -0.0}, {-1, 1, -0.0, 0, 3}).exponents.sign_flips, 2);
}

}  // namespace
}  // namespace paritrace
