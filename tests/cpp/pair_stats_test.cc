#include "compare/pair_stats.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compare/pair_kernels.h"
#include "core/decode.h"
#include "core/error.h"

namespace paritrace {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

// A tensor with bytes of its own, at a chosen misalignment.
class Tensor {
 public:
  Tensor(DType dtype, const std::vector<double>& values, std::size_t misaligned_by = 0)
      : storage_(values.size() * 8 + 72) {
    const auto address = reinterpret_cast<std::uintptr_t>(storage_.data());
    std::byte* start = storage_.data() + (64 - address % 64) % 64 + misaligned_by;
    std::byte* at = start;
    const auto put = [&](auto value) {
      std::memcpy(at, &value, sizeof value);
      at += sizeof value;
    };
    for (const double value : values) {
      switch (dtype) {
        case DType::kF64: put(value); break;
        case DType::kF32: put(static_cast<float>(value)); break;
        case DType::kF16: put(FloatToHalf(static_cast<float>(value))); break;
        case DType::kBF16: put(FloatToBFloat(static_cast<float>(value))); break;
        case DType::kI8: put(static_cast<std::int8_t>(value)); break;
        case DType::kI16: put(static_cast<std::int16_t>(value)); break;
        case DType::kI32: put(static_cast<std::int32_t>(value)); break;
        case DType::kU8: put(static_cast<std::uint8_t>(value)); break;
        case DType::kU16: put(static_cast<std::uint16_t>(value)); break;
        case DType::kU32: put(static_cast<std::uint32_t>(value)); break;
        case DType::kBool: put(static_cast<std::uint8_t>(value > 0.5)); break;
        // Codes that are finite in both types, not the nearest to the value: what counts is that they differ.
        case DType::kF8E4M3:
        case DType::kF8E5M2: {
          const auto code = static_cast<std::uint8_t>(static_cast<int>(std::fabs(value) * 37) & 0x77);
          put(static_cast<std::uint8_t>(value < 0 ? code | 0x80 : code));
          break;
        }
        case DType::kU64: put(static_cast<std::uint64_t>(value)); break;
        default: put(static_cast<std::int64_t>(value)); break;
      }
    }
    view_ = {"t", dtype, {static_cast<std::int64_t>(values.size())}, {start, static_cast<std::size_t>(at - start)}};
  }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  Tensor& Shaped(Shape shape) {
    view_.shape = std::move(shape);
    return *this;
  }
  [[nodiscard]] const TensorView& view() const { return view_; }

 private:
  std::vector<std::byte> storage_;
  TensorView view_;
};

// One relative error for every sum, counted against the sum of magnitudes where signs differ.
void ExpectSame(const PairComparison& got, const PairComparison& expected, const std::string& what) {
  const PairStats &g = got.total, &e = expected.total;
  EXPECT_EQ(g.count, e.count) << what;
  EXPECT_EQ(g.equal, e.equal) << what;
  EXPECT_EQ(g.masked, e.masked) << what;
  EXPECT_EQ(g.mismatches, e.mismatches) << what;
  EXPECT_EQ(g.first_mismatch, e.first_mismatch) << what;
  EXPECT_EQ(g.unmeasured, e.unmeasured) << what;
  EXPECT_EQ(g.nan_reference, e.nan_reference) << what;
  EXPECT_EQ(g.nan_subject, e.nan_subject) << what;
  EXPECT_EQ(g.nan_either, e.nan_either) << what;
  EXPECT_EQ(g.inf_reference, e.inf_reference) << what;
  EXPECT_EQ(g.inf_subject, e.inf_subject) << what;
  EXPECT_EQ(g.inf_either, e.inf_either) << what;
  const auto near = [](double a, double b, double scale) { return a == b || std::fabs(a - b) <= 1e-12 * scale; };
  EXPECT_TRUE(near(g.max_abs, e.max_abs, e.max_abs)) << what << " " << g.max_abs << " " << e.max_abs;
  EXPECT_EQ(g.max_abs_at, e.max_abs_at) << what;
  EXPECT_EQ(g.max_reference, e.max_reference) << what;
  EXPECT_EQ(g.max_subject, e.max_subject) << what;
  EXPECT_TRUE(near(g.abs.Total(), e.abs.Total(), e.abs.Total())) << what;
  EXPECT_TRUE(near(g.rr.Total(), e.rr.Total(), e.rr.Total())) << what;
  EXPECT_TRUE(near(g.ss.Total(), e.ss.Total(), e.ss.Total())) << what;
  EXPECT_TRUE(near(g.dd.Total(), e.dd.Total(), e.dd.Total())) << what;
  EXPECT_TRUE(near(g.rs.Total(), e.rs.Total(), std::sqrt(e.rr.Total() * e.ss.Total()))) << what;
  ASSERT_EQ(got.positions.size(), expected.positions.size()) << what;
  for (std::size_t i = 0; i < got.positions.size(); ++i) {
    const PositionStats &gp = got.positions[i], &ep = expected.positions[i];
    EXPECT_TRUE(near(gp.max_abs, ep.max_abs, ep.max_abs)) << what << " row " << i;
    EXPECT_TRUE(near(gp.rr, ep.rr, ep.rr)) << what << " row " << i;
    EXPECT_TRUE(near(gp.ss, ep.ss, ep.ss)) << what << " row " << i;
    EXPECT_TRUE(near(gp.dd, ep.dd, ep.dd)) << what << " row " << i;
    EXPECT_TRUE(near(gp.rs, ep.rs, std::sqrt(ep.rr * ep.ss))) << what << " row " << i;
    EXPECT_EQ(gp.mismatches, ep.mismatches) << what << " row " << i;
    EXPECT_EQ(gp.unequal, ep.unequal) << what << " row " << i;
  }
}

// The detailed statistics come with a way of their own over the values, which must find the same.
PairComparison Compare(const TensorView& reference, const TensorView& subject, const PairLayout& layout) {
  const PairComparison plain = ComparePair(reference, subject, layout);
  ExpectSame(ComparePair(reference, subject, layout, {.progress = nullptr, .detail = true}), plain, "in detail");
  return plain;
}

std::vector<double> RandomValues(std::size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0, 2);
  std::vector<double> values(count);
  for (double& value : values) value = normal(generator);
  return values;
}

struct PairCase {
  const char* name;
  std::vector<double> reference, subject;
  double max_abs;
  std::int64_t equal, mismatches;
};
void PrintTo(const PairCase& row, std::ostream* out) { *out << row.name; }
class PairTest : public ::testing::TestWithParam<PairCase> {};

TEST_P(PairTest, StatsOnEveryTargetAndType) {
  const PairCase& row = GetParam();
  const auto size = static_cast<std::int64_t>(row.reference.size());
  for (const std::string& target : KernelTargets()) {
    ForceKernelTarget(target);
    for (const DType type : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16}) {
      const Tensor reference(type, row.reference), subject(type, row.subject);
      const PairComparison got = Compare(reference.view(), subject.view(), ContiguousLayout(1, size));
      EXPECT_EQ(got.total.max_abs, row.max_abs) << target << " " << Name(type);
      EXPECT_EQ(got.total.equal, row.equal) << target << " " << Name(type);
      EXPECT_EQ(got.total.mismatches, row.mismatches) << target << " " << Name(type);
    }
  }
  ForceKernelTarget("");
}

INSTANTIATE_TEST_SUITE_P(
    Table, PairTest,
    ::testing::Values(
        PairCase{"NaNInSubject", {1}, {kNaN}, 0, 0, 1}, PairCase{"NaNInReference", {kNaN}, {1}, 0, 0, 1},
        PairCase{"NaNInBoth", {kNaN}, {kNaN}, 0, 1, 0}, PairCase{"NaNBesideADifference", {1, 2}, {kNaN, 5}, 3, 0, 1},
        PairCase{"NaNAgainstInfinity", {kNaN}, {kInf}, 0, 0, 1}, PairCase{"InfSameSign", {kInf}, {kInf}, 0, 1, 0},
        PairCase{"InfOtherSign", {kInf}, {-kInf}, 0, 0, 1}, PairCase{"InfAgainstFinite", {kInf}, {1}, 0, 0, 1},
        // Kernels pad with zeros: the padding must not count as equal pairs.
        PairCase{"Empty", {}, {}, 0, 0, 0}, PairCase{"SignedZero", {0.0}, {-0.0}, 0, 1, 0},
        PairCase{"BothNegative", {-10}, {-1000}, 990, 0, 0}, PairCase{"Subnormal", {0x1p-24}, {0}, 0x1p-24, 0, 0},
        PairCase{"BeyondTheReachOfHalf", {57344}, {-57344}, 114688, 0, 0}),
    [](const auto& row) { return row.param.name; });

TEST(ComparePair, EveryTypeMixLengthAndStartAgreesWithLongDouble) {
  const DType types[] = {DType::kF64,    DType::kF32, DType::kF16, DType::kBF16, DType::kF8E4M3,
                         DType::kF8E5M2, DType::kI8,  DType::kI16, DType::kI32,  DType::kI64,
                         DType::kU8,     DType::kU16, DType::kU32, DType::kU64,  DType::kBool};
  const std::int64_t lanes = 16;  // two vectors of eight doubles, the widest step
  for (const std::string& target : KernelTargets()) {
    ForceKernelTarget(target);
    for (const DType a : types) {
      for (const DType b : types) {
        for (const std::int64_t length :
             {std::int64_t{0}, std::int64_t{1}, lanes - 1, lanes, lanes + 1, 8 * lanes + 3}) {
          std::vector<double> left = RandomValues(static_cast<std::size_t>(length), 1), right = left;
          for (std::size_t i = 0; i < right.size(); ++i) right[i] += i % 3 == 0 ? 0 : 0.25 * static_cast<double>(i % 5);
          const auto has_no_sign = [](DType type) {
            return type == DType::kU8 || type == DType::kU16 || type == DType::kU32 || type == DType::kU64;
          };
          const bool is_unsigned = has_no_sign(a) || has_no_sign(b);
          for (auto* values : {&left, &right}) {
            for (double& value : *values) value = is_unsigned ? std::fabs(value) : value;
          }
          for (const std::size_t start : {0, 1, 3}) {
            const Tensor reference(a, left, start), subject(b, right, 7 - start);
            const PairLayout layout = ContiguousLayout(1, length);
            ExpectSame(Compare(reference.view(), subject.view(), layout),
                       ComparePairReference(reference.view(), subject.view(), layout),
                       target + " " + std::string(Name(a)) + "/" + std::string(Name(b)) + " " + std::to_string(length));
          }
        }
      }
    }
  }
  ForceKernelTarget("");
}

TEST(ComparePair, OneNonfiniteValueAnywhereChangesOnlyItself) {
  constexpr std::int64_t kLength = 8 * 16 + 3;
  for (const std::string& target : KernelTargets()) {
    ForceKernelTarget(target);
    for (const DType type : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16}) {
      for (std::int64_t at = 0; at < kLength; ++at) {
        std::vector<double> left = RandomValues(kLength, 3), right = RandomValues(kLength, 4);
        (at % 2 == 0 ? left : right)[static_cast<std::size_t>(at)] = at % 3 == 0 ? kInf : kNaN;
        const Tensor reference(type, left), subject(type, right);
        const PairLayout layout = ContiguousLayout(1, kLength);
        const PairComparison got = Compare(reference.view(), subject.view(), layout);
        EXPECT_EQ(got.total.first_mismatch, at);
        ExpectSame(got, ComparePairReference(reference.view(), subject.view(), layout), target);
      }
    }
  }
  ForceKernelTarget("");
}

// Every half there is, against itself and against nothing: the emulated conversions have their traps in the rare ones.
TEST(ComparePair, EveryHalfAndBFloatOnEveryTarget) {
  std::vector<std::uint16_t> all(1 << 16);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
  for (const DType type : {DType::kF16, DType::kBF16}) {
    const TensorView bits{"all", type, {1 << 16}, std::as_bytes(std::span(all))};
    const std::vector<double> decoded = DecodeAll(bits);
    const Tensor doubles(DType::kF64, decoded);
    for (const std::string& target : KernelTargets()) {
      ForceKernelTarget(target);
      const PairComparison got = Compare(bits, doubles.view(), ContiguousLayout(1 << 6, 1 << 10));
      EXPECT_EQ(got.total.equal, 1 << 16) << target << " " << Name(type);
      EXPECT_EQ(got.total.mismatches, 0) << target << " " << Name(type);
      EXPECT_EQ(got.total.inf_either, 2) << target << " " << Name(type);
      // Zeros for every value: what a conversion drops shows as a wrong sum.
      const Tensor zeros(DType::kF32, std::vector<double>(1 << 16));
      const PairLayout rows = ContiguousLayout(1 << 6, 1 << 10);
      ExpectSame(Compare(bits, zeros.view(), rows), ComparePairReference(bits, zeros.view(), rows), target);
    }
  }
  ForceKernelTarget("");
}

TEST(ComparePair, IntegersBeyondTheReachOfDoubles) {
  const std::int64_t a[] = {(1LL << 53) + 1, -(1LL << 60) - 1}, b[] = {1LL << 53, -(1LL << 60) - 1};
  const TensorView reference{"a", DType::kI64, {2}, std::as_bytes(std::span(a))},
      subject{"b", DType::kI64, {2}, std::as_bytes(std::span(b))};
  const PairComparison got = Compare(reference, subject, ContiguousLayout(1, 2));
  EXPECT_EQ(got.total.equal, 1);
  EXPECT_EQ(got.total.max_abs, 1);
  EXPECT_EQ(got.total.max_abs_at, 0);
}

TEST(ComparePair, MaximumIsTheFirstOfEqualOnes) {
  std::vector<double> zeros(70000), values(70000);
  for (const std::size_t at : {20000u, 40000u, 69999u}) values[at] = -2;
  const Tensor reference(DType::kF32, zeros), subject(DType::kF32, values);
  EXPECT_EQ(Compare(reference.view(), subject.view(), ContiguousLayout(1, 70000)).total.max_abs_at, 20000);
  EXPECT_EQ(Compare(reference.view(), subject.view(), ContiguousLayout(70, 1000)).total.max_abs_at, 20000);
}

TEST(ComparePair, LongRowsAreCutAndPutTogetherAgain) {
  const std::int64_t length = 3 * 65536 + 17;
  const Tensor reference(DType::kBF16, RandomValues(static_cast<std::size_t>(2 * length), 5));
  const Tensor subject(DType::kF32, RandomValues(static_cast<std::size_t>(2 * length), 6), 2);
  const PairLayout layout = ContiguousLayout(2, length);
  ExpectSame(Compare(reference.view(), subject.view(), layout),
             ComparePairReference(reference.view(), subject.view(), layout), "long");
}

// [heads, tokens, dim] against [tokens, heads * dim], with the rows' order of one side permuted on top.
TEST(ComparePair, HeadMajorAndPermutedRows) {
  constexpr std::int64_t kHeads = 3, kTokens = 5, kDim = 8;
  const std::vector<double> head_major = RandomValues(kHeads * kTokens * kDim, 7);
  const std::vector<std::int64_t> order = {0, 4, 1, 5, 2, 6, 3, 7};
  std::vector<double> token_major(head_major.size());
  for (std::int64_t h = 0; h < kHeads; ++h) {
    for (std::int64_t t = 0; t < kTokens; ++t) {
      for (std::int64_t i = 0; i < kDim; ++i) {
        token_major[static_cast<std::size_t>((t * kHeads + h) * kDim + order[static_cast<std::size_t>(i)])] =
            head_major[static_cast<std::size_t>((h * kTokens + t) * kDim + i)];
      }
    }
  }
  const Tensor reference(DType::kF32, head_major), subject(DType::kF32, token_major);
  PairLayout layout;
  layout.outer = kHeads;
  layout.rows = kTokens;
  layout.inner = kDim;
  layout.reference = {.base = 0, .outer_stride = kTokens * kDim, .row_stride = kDim, .inner_stride = 1, .order = {}};
  layout.subject = {.base = 0, .outer_stride = kDim, .row_stride = kHeads * kDim, .inner_stride = 1, .order = order};
  EXPECT_TRUE(Compare(reference.view(), subject.view(), layout).total.AllEqual());
  layout.subject.order.clear();
  const PairComparison got = Compare(reference.view(), subject.view(), layout);
  EXPECT_FALSE(got.total.AllEqual());
  ExpectSame(got, ComparePairReference(reference.view(), subject.view(), layout), "head-major");
}

TEST(ComparePair, LayoutOutsideTheTensorIsRefused) {
  const Tensor reference(DType::kF32, RandomValues(12, 8)), subject(DType::kF32, RandomValues(12, 9));
  PairLayout layout = ContiguousLayout(3, 4);
  layout.subject.base = 1;
  EXPECT_THROW((void)ComparePair(reference.view(), subject.view(), layout), InternalError);
  layout.subject.base = 0;
  layout.subject.order = {0, 1, 2, 4};
  EXPECT_THROW((void)ComparePair(reference.view(), subject.view(), layout), InternalError);
}

TEST(ComparePair, MaskedScores) {
  // A mask is a mask, however it is written; on one side only it is a mismatch that no distance measures.
  const Tensor reference(DType::kF32, {1, -kInf, -3.4e38, 2, kNaN, -1e30});
  const Tensor subject(DType::kF32, {1, -1e30, -kInf, -kInf, -kInf, -2e30});
  PairLayout layout = ContiguousLayout(2, 3);
  layout.masked_scores = true;
  const PairComparison got = Compare(reference.view(), subject.view(), layout);
  EXPECT_EQ(got.total.masked, 3);
  EXPECT_EQ(got.total.equal, 4);
  EXPECT_EQ(got.total.mismatches, 2);
  EXPECT_EQ(got.total.first_mismatch, 3);
  EXPECT_EQ(got.total.inf_either, 0);
  EXPECT_EQ(got.total.nan_reference, 1);
  EXPECT_EQ(got.positions[0].mismatches, 0);
  EXPECT_EQ(got.positions[1].mismatches, 2);
  ExpectSame(got, ComparePairReference(reference.view(), subject.view(), layout), "masked");
}

TEST(ComparePair, MasksOfHalfPrecision) {
  const Tensor reference(DType::kF32, {1, -kInf, 3}), subject(DType::kF16, {1, -65504, 3});
  PairLayout layout = ContiguousLayout(1, 3);
  layout.masked_scores = true;
  EXPECT_TRUE(Compare(reference.view(), subject.view(), layout).total.AllEqual());
  layout.masked_scores = false;
  EXPECT_EQ(Compare(reference.view(), subject.view(), layout).total.mismatches, 1);
}

TEST(ComparePair, OneSideStillQuantised) {
  // q8_0: a half as scale, then 32 signed bytes.
  std::vector<std::byte> blocks;
  std::vector<double> values;
  for (int block = 0; block < 8; ++block) {
    const std::uint16_t scale = FloatToHalf(0.125f * static_cast<float>(block + 1));
    blocks.push_back(static_cast<std::byte>(scale & 0xff));
    blocks.push_back(static_cast<std::byte>(scale >> 8));
    for (int i = 0; i < 32; ++i) {
      const auto code = static_cast<std::int8_t>(i * 7 - 100);
      blocks.push_back(static_cast<std::byte>(code));
      values.push_back(0.125 * (block + 1) * code);
    }
  }
  const TensorView quantised{"q", DType::kQ8_0, {4, 64}, blocks};
  const Tensor plain(DType::kF32, values);
  EXPECT_TRUE(Compare(quantised, plain.view(), ContiguousLayout(4, 64)).total.AllEqual());
  // Cut into heads that end inside a block.
  PairLayout layout;
  layout.outer = 8;
  layout.rows = 4;
  layout.inner = 8;
  layout.reference = layout.subject = {.base = 0, .outer_stride = 8, .row_stride = 64, .inner_stride = 1, .order = {}};
  EXPECT_TRUE(Compare(quantised, plain.view(), layout).total.AllEqual());
}

TEST(PairStats, DerivedValuesAtTheEdges) {
  const auto compare = [](const std::vector<double>& a, const std::vector<double>& b) {
    const Tensor reference(DType::kF64, a), subject(DType::kF64, b);
    return Compare(reference.view(), subject.view(), ContiguousLayout(1, static_cast<std::int64_t>(a.size()))).total;
  };
  EXPECT_EQ(compare({0, 0}, {0, 0}).Cosine(), 1);
  EXPECT_EQ(compare({0, 0}, {0, 0}).Nmse(), 0);
  EXPECT_EQ(compare({0, 0}, {1, 0}).Cosine(), 0);
  EXPECT_EQ(compare({0, 0}, {1, 0}).Nmse(), kInf);
  EXPECT_EQ(compare({}, {}).MeanAbs(), 0);
  EXPECT_EQ(compare({3, 4}, {-3, -4}).Cosine(), -1);
  EXPECT_DOUBLE_EQ(compare({3, 4}, {3, 5}).Nmse(), 1.0 / 25);
  EXPECT_DOUBLE_EQ(compare({3, 4}, {3, 5}).RmsReference(), std::sqrt(12.5));
  EXPECT_DOUBLE_EQ(compare({3, 4, kNaN}, {3, 5, kNaN}).MeanAbs(), 0.5);  // over the finite pairs
  // torch's f32 cosine gave 1.0000182 for nearly parallel rows; sums in f64 and the clamp cannot.
  EXPECT_LE(compare({1e-3, 1e-3}, {1e-3, 1.0000001e-3}).Cosine(), 1);
}

TEST(PairStats, MergeIsAssociativeAndCommutative) {
  const std::vector<double> left = RandomValues(3000, 11);
  std::vector<double> right = RandomValues(3000, 12);
  right[1700] = kNaN;
  std::vector<PairStats> parts;
  for (std::size_t begin = 0; begin < left.size(); begin += 500) {
    const Tensor a(DType::kF64, {left.begin() + static_cast<std::ptrdiff_t>(begin),
                                 left.begin() + static_cast<std::ptrdiff_t>(begin + 500)});
    const Tensor b(DType::kF64, {right.begin() + static_cast<std::ptrdiff_t>(begin),
                                 right.begin() + static_cast<std::ptrdiff_t>(begin + 500)});
    PairStats part = Compare(a.view(), b.view(), ContiguousLayout(1, 500)).total;
    part.max_abs_at += static_cast<std::int64_t>(begin);
    if (part.first_mismatch >= 0) part.first_mismatch += static_cast<std::int64_t>(begin);
    parts.push_back(part);
  }
  PairStats forward, backward, nested;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    forward.Merge(parts[i]);
    backward.Merge(parts[parts.size() - 1 - i]);
  }
  for (std::size_t i = 0; i < parts.size(); i += 2) {
    PairStats two = parts[i + 1];
    two.Merge(parts[i]);
    nested.Merge(two);
  }
  for (const PairStats& other : {backward, nested}) {
    EXPECT_EQ(other.count, forward.count);
    EXPECT_EQ(other.equal, forward.equal);
    EXPECT_EQ(other.first_mismatch, 1700);
    EXPECT_EQ(other.max_abs_at, forward.max_abs_at);
    EXPECT_EQ(other.max_subject, forward.max_subject);
    EXPECT_DOUBLE_EQ(other.dd.Total(), forward.dd.Total());
    EXPECT_DOUBLE_EQ(other.rs.Total(), forward.rs.Total());
  }
}

TEST(PairStats, SumsKeepWhatDoublesDrop) {
  CarriedSum sum;
  sum.Add(1e16);
  for (int i = 0; i < 1000; ++i) sum.Add(0.5);
  sum.Add(-1e16);
  EXPECT_EQ(sum.Total(), 500);
}

TEST(KernelTargets, ScalarIsThereAndCanBeForced) {
  EXPECT_THAT(KernelTargets(), ::testing::Contains("scalar"));
  ForceKernelTarget("scalar");
  EXPECT_EQ(ActiveKernelTarget(), "scalar");
  EXPECT_THROW(ForceKernelTarget("abacus"), UsageError);
  setenv("PARITRACE_TARGET", "scalar", 1);
  ForceKernelTarget("");
  EXPECT_EQ(ActiveKernelTarget(), "scalar");
  unsetenv("PARITRACE_TARGET");
  ForceKernelTarget("");
  EXPECT_EQ(ActiveKernelTarget(), KernelTargets().front());
}

}  // namespace
}  // namespace paritrace
