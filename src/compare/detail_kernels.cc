#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "compare/detail_kernels.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
// After foreach_target.h, as Highway asks.
#include <hwy/highway.h>

#include "compare/kernel_loads-inl.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "compare/detail_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace paritrace {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Values whose exponents are held as bytes at once, and then counted.
constexpr std::int64_t kBlock = 4096;
// Values between two looks at whether a sign has flipped: mostly none has, and one look is cheaper than one count a value.
constexpr std::int64_t kStretch = 256;
// The exponent that stands for "equal": below every other, and still no overflow when shifted left by 23.
constexpr std::int32_t kEqual = -255;
constexpr int kMantissaBits = 23;

using DF = hn::ScalableTag<float>;
using DI = hn::RebindToSigned<DF>;
using VF = hn::Vec<DF>;
using VI = hn::Vec<DI>;
constexpr std::int32_t kScaledOfEqual = kEqual * (1 << kMantissaBits);

// Exponents' differences as bytes, saturated: -128 stands for equal.
// Most lie close together: a rounding error has half as many values for each power of two below its largest. So a few
// neighbouring numbers are counted by comparing, a vector at a time, and the rest one by one.
class ByteCounts {
 public:
  // bins[k + 128] += how often k is among bytes[0, count), count <= kBlock. There is room for a vector more behind them,
  // which is overwritten.
  HWY_INLINE void Add(std::int8_t* bytes, std::int64_t count, std::int64_t* bins) {
    const hn::ScalableTag<std::int8_t> d8;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d8));
    for (std::int64_t i = count; i % lanes != 0; ++i) bytes[i] = kEqualByte;
    const std::int64_t padded = (count + lanes - 1) / lanes * lanes;
    PlaceWindow(bytes, count, bins);
    std::int64_t others = CountWindow(bytes, padded, bins);
    const auto first = hn::Set(d8, static_cast<std::int8_t>(first_ - 1)),
               last = hn::Set(d8, static_cast<std::int8_t>(first_ + kWindow)), equal = hn::Set(d8, kEqualByte);
    for (std::int64_t i = 0; i < padded; i += lanes) {
      const auto value = hn::LoadU(d8, bytes + i);
      const auto outside =
          hn::AndNot(hn::Eq(value, equal), hn::Not(hn::And(hn::Gt(value, first), hn::Lt(value, last))));
      if (hn::AllFalse(d8, outside)) continue;
      HWY_ALIGN std::uint8_t bits[hn::MaxLanes(d8) / 8 + 8];
      hn::StoreMaskBits(d8, outside, bits);
      for (std::int64_t word = 0; word < lanes; word += 64) {
        std::uint64_t rest = 0;
        std::memcpy(&rest, bits + word / 8, static_cast<std::size_t>(std::min<std::int64_t>(8, (lanes + 7) / 8)));
        for (; rest != 0; rest &= rest - 1) {
          ++bins[bytes[i + word + std::countr_zero(rest)] + 128];
          ++others;
        }
      }
    }
    bins[0] += count - others;
  }

 private:
  static constexpr std::int8_t kEqualByte = -128;
  static constexpr int kWindow = 12;

  // Returns how many were inside.
  HWY_INLINE std::int64_t CountWindow(const std::int8_t* bytes, std::int64_t count, std::int64_t* bins) const {
    const hn::ScalableTag<std::int8_t> d8;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d8));
    // A byte counts to 255: as many vectors are added up before they are summed.
    constexpr std::int64_t kMostAdditions = 255;
    std::int64_t inside = 0;
    for (std::int64_t begin = 0; begin < count; begin += kMostAdditions * lanes) {
      const std::int64_t end = std::min(count, begin + kMostAdditions * lanes);
      for (int k = first_; k < first_ + kWindow; k += 6) {
        auto c0 = hn::Zero(d8), c1 = c0, c2 = c0, c3 = c0, c4 = c0, c5 = c0;
        const auto number = [&](int j) { return hn::Set(d8, static_cast<std::int8_t>(k + j)); };
        const auto k0 = number(0), k1 = number(1), k2 = number(2), k3 = number(3), k4 = number(4), k5 = number(5);
        for (std::int64_t i = begin; i < end; i += lanes) {
          const auto value = hn::LoadU(d8, bytes + i);
          c0 = CountEqual(value, k0, c0);
          c1 = CountEqual(value, k1, c1);
          c2 = CountEqual(value, k2, c2);
          c3 = CountEqual(value, k3, c3);
          c4 = CountEqual(value, k4, c4);
          c5 = CountEqual(value, k5, c5);
        }
        const std::int64_t counts[6] = {Sum(c0), Sum(c1), Sum(c2), Sum(c3), Sum(c4), Sum(c5)};
        for (int j = 0; j < 6; ++j) {
          bins[k + j + 128] += counts[j];
          inside += counts[j];
        }
      }
    }
    return inside;
  }

  template <class V8>
  static HWY_INLINE std::int64_t Sum(V8 counts) {
    const hn::ScalableTag<std::uint8_t> du8;
    const hn::ScalableTag<std::uint64_t> du64;
    return static_cast<std::int64_t>(hn::GetLane(hn::SumOfLanes(du64, hn::SumsOf8(hn::BitCast(du8, counts)))));
  }

  // counts, plus one in each lane where value is k.
  template <class V8>
  static HWY_INLINE V8 CountEqual(V8 value, V8 k, V8 counts) {
    const hn::DFromV<V8> d8;
#if HWY_TARGET <= HWY_AVX3
    // One masked addition; elsewhere a comparison is a vector of minus ones already.
    return hn::IfThenElse(hn::Eq(value, k), hn::Add(counts, hn::Set(d8, 1)), counts);
#else
    return hn::Sub(counts, hn::VecFromMask(d8, hn::Eq(value, k)));
#endif
  }

  // Around the number met most often so far, most of it below; at the very start, around the largest of the first few.
  void PlaceWindow(const std::int8_t* bytes, std::int64_t count, const std::int64_t* bins) {
    const std::int64_t* const often = std::max_element(bins + 1, bins + 256);
    int most = static_cast<int>(often - bins) - 128;
    if (*often == 0) most = *std::max_element(bytes, bytes + std::min<std::int64_t>(count, 64));
    first_ = std::clamp(most - 8, -127, 127 - kWindow);
  }

  int first_ = 0;
};

// Exponents' differences above the mantissa of the difference, kScaledOfEqual where equal: such numbers order as integers.
//   least: the least exponent, where a float has it
HWY_INLINE VI ScaledDifference(VF a, VF b, VI least) {
  const DI di;
  const VI d_bits = hn::BitCast(di, hn::Abs(hn::Sub(a, b)));
  const VI a_exponent = hn::Max(hn::And(hn::BitCast(di, a), hn::Set(di, 0x7F800000)), least);
  // The mantissa of the difference stays behind, below the exponents' difference, and cannot borrow from it.
  const VI above = hn::Sub(d_bits, a_exponent);
  return hn::IfThenElse(hn::Lt(d_bits, hn::Set(di, 1 << kMantissaBits)), hn::Set(di, kScaledOfEqual), above);
}

// The lanes of both, saturated, in whatever order: they are only counted.
HWY_INLINE void StoreBytes(VI first, VI second, std::int8_t* bytes) {
#if HWY_TARGET == HWY_SCALAR
  const hn::Rebind<std::int8_t, DI> di8;
  hn::StoreU(hn::DemoteTo(di8, first), di8, bytes);
  hn::StoreU(hn::DemoteTo(di8, second), di8, bytes + 1);
#else
  const hn::Repartition<std::int16_t, DI> di16;
  const hn::Rebind<std::int8_t, decltype(di16)> di8;
  hn::StoreU(hn::DemoteTo(di8, hn::ReorderDemote2To(di16, first, second)), di8, bytes);
#endif
}

// Lanes in which neither is zero or subnormal, and the signs differ.
HWY_INLINE std::int64_t CountFlips(VF a, VF b) {
  const DF df;
  // The factor keeps the product of two normal values from vanishing; where it overflows, the sign is still right.
  const VF product = hn::Mul(a, hn::Mul(b, hn::Set(df, 0x1p126f)));
  return static_cast<std::int64_t>(hn::CountTrue(df, hn::Lt(product, hn::Zero(df))));
}

template <typename A, typename B>
void Exponents(const void* a_values, const void* b_values, std::int64_t count, int least_exponent, ExponentSums& sums) {
  const DF df;
  const DI di;
  const hn::Rebind<std::int8_t, DI> di8;
  const auto* a = static_cast<const A*>(a_values);
  const auto* b = static_cast<const B*>(b_values);
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(df));
  const VI least = hn::Set(di, (least_exponent + 127) * (1 << kMantissaBits));
  HWY_ALIGN std::int8_t bytes[kBlock + hn::MaxLanes(hn::ScalableTag<std::int8_t>())];
  VI most0 = hn::Set(di, kScaledOfEqual), most1 = most0;
  ByteCounts counts;
  for (std::int64_t begin = 0; begin < count; begin += kBlock) {
    const std::int64_t now = std::min(kBlock, count - begin);
    const A* const a_now = a + begin;
    const B* const b_now = b + begin;
    std::int64_t i = 0;
    for (; i + kStretch <= now; i += kStretch) {
      VI signs = hn::Zero(di);
      for (std::int64_t j = i; j < i + kStretch; j += 2 * lanes) {
        const VF x0 = LoadF32(df, a_now + j), y0 = LoadF32(df, b_now + j);
        const VF x1 = LoadF32(df, a_now + j + lanes), y1 = LoadF32(df, b_now + j + lanes);
        signs = hn::Or(signs, hn::BitCast(di, hn::Or(hn::Xor(x0, y0), hn::Xor(x1, y1))));
        const VI scaled0 = ScaledDifference(x0, y0, least), scaled1 = ScaledDifference(x1, y1, least);
        most0 = hn::Max(most0, scaled0);
        most1 = hn::Max(most1, scaled1);
        StoreBytes(hn::ShiftRight<kMantissaBits>(scaled0), hn::ShiftRight<kMantissaBits>(scaled1), bytes + j);
      }
      if (hn::AllFalse(di, hn::Lt(signs, hn::Zero(di)))) continue;
      for (std::int64_t j = i; j < i + kStretch; j += lanes) {
        sums.sign_flips += CountFlips(LoadF32(df, a_now + j), LoadF32(df, b_now + j));
      }
    }
    for (; i < now; i += lanes) {
      // Filled up with zeros, which are equal and flip no sign; their bytes are not counted.
      HWY_ALIGN A a_rest[hn::MaxLanes(df)] = {};
      HWY_ALIGN B b_rest[hn::MaxLanes(df)] = {};
      const auto rest = static_cast<std::size_t>(std::min(lanes, now - i));
      std::memcpy(a_rest, a_now + i, rest * sizeof(A));
      std::memcpy(b_rest, b_now + i, rest * sizeof(B));
      const VI scaled = ScaledDifference(LoadF32(df, a_rest), LoadF32(df, b_rest), least);
      most0 = hn::Max(most0, scaled);
      sums.sign_flips += CountFlips(LoadF32(df, a_rest), LoadF32(df, b_rest));
      hn::StoreU(hn::DemoteTo(di8, hn::ShiftRight<kMantissaBits>(scaled)), di8, bytes + i);
    }
    counts.Add(bytes, now, sums.bins.data());
  }
  const std::int32_t scaled = hn::GetLane(hn::MaxOfLanes(di, hn::Max(most0, most1)));
  const std::int32_t exponent = scaled >> kMantissaBits, mantissa = scaled & ((1 << kMantissaBits) - 1);
  if (exponent == kEqual) return;
  sums.max_scaled = std::max(sums.max_scaled, std::ldexp(1 + mantissa * 0x1p-23, exponent));
}

template <typename A, typename B>
void Channels(const void* a_values, std::int64_t a_stride, const void* b_values, std::int64_t b_stride,
              std::int64_t rows, std::int64_t columns, double* error, double* energy) {
  const hn::ScalableTag<double> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto a_row = [&](std::int64_t row) {
    return reinterpret_cast<const A*>(static_cast<const char*>(a_values) + row * a_stride);
  };
  const auto b_row = [&](std::int64_t row) {
    return reinterpret_cast<const B*>(static_cast<const char*>(b_values) + row * b_stride);
  };
  // Four rows at a time: more of them, a power of two apart, would push each other out of the first-level cache.
  constexpr std::int64_t kRows = 4;
  if (rows > kRows) {
    for (std::int64_t row = 0; row < rows; row += kRows) {
      Channels<A, B>(a_row(row), a_stride, b_row(row), b_stride, std::min(kRows, rows - row), columns, error, energy);
    }
    return;
  }
  std::int64_t c = 0;
  for (; c + 2 * lanes <= columns; c += 2 * lanes) {
    auto error0 = hn::LoadU(d, error + c), error1 = hn::LoadU(d, error + c + lanes);
    auto energy0 = hn::LoadU(d, energy + c), energy1 = hn::LoadU(d, energy + c + lanes);
    for (std::int64_t row = 0; row < rows; ++row) {
      const auto a0 = LoadF64(d, a_row(row) + c), a1 = LoadF64(d, a_row(row) + c + lanes);
      const auto d0 = hn::Sub(a0, LoadF64(d, b_row(row) + c)), d1 = hn::Sub(a1, LoadF64(d, b_row(row) + c + lanes));
      error0 = hn::MulAdd(d0, d0, error0);
      error1 = hn::MulAdd(d1, d1, error1);
      energy0 = hn::MulAdd(a0, a0, energy0);
      energy1 = hn::MulAdd(a1, a1, energy1);
    }
    hn::StoreU(error0, d, error + c);
    hn::StoreU(error1, d, error + c + lanes);
    hn::StoreU(energy0, d, energy + c);
    hn::StoreU(energy1, d, energy + c + lanes);
  }
  if (c == columns) return;
  // The rest of each row, filled up with zeros, which change no sum.
  HWY_ALIGN double rest_error[2 * hn::MaxLanes(d)] = {}, rest_energy[2 * hn::MaxLanes(d)] = {};
  const auto rest = static_cast<std::size_t>(columns - c);
  for (std::int64_t row = 0; row < rows; ++row) {
    HWY_ALIGN A a_rest[2 * hn::MaxLanes(d)] = {};
    HWY_ALIGN B b_rest[2 * hn::MaxLanes(d)] = {};
    std::memcpy(a_rest, a_row(row) + c, rest * sizeof(A));
    std::memcpy(b_rest, b_row(row) + c, rest * sizeof(B));
    for (std::int64_t i = 0; i < 2 * lanes; i += lanes) {
      const auto a = LoadF64(d, a_rest + i), difference = hn::Sub(a, LoadF64(d, b_rest + i));
      hn::StoreU(hn::MulAdd(difference, difference, hn::LoadU(d, rest_error + i)), d, rest_error + i);
      hn::StoreU(hn::MulAdd(a, a, hn::LoadU(d, rest_energy + i)), d, rest_energy + i);
    }
  }
  for (std::size_t i = 0; i < rest; ++i) {
    error[c + static_cast<std::int64_t>(i)] += rest_error[i];
    energy[c + static_cast<std::int64_t>(i)] += rest_energy[i];
  }
}

template <typename A>
ExponentKernel ExponentsFor(DType b) {
  switch (b) {
    case DType::kF32: return &Exponents<A, float>;
    case DType::kF16: return &Exponents<A, Half>;
    case DType::kBF16: return &Exponents<A, BFloat>;
    default: return nullptr;
  }
}

ExponentKernel FindExponents(DType a, DType b) {
  switch (a) {
    case DType::kF32: return ExponentsFor<float>(b);
    case DType::kF16: return ExponentsFor<Half>(b);
    case DType::kBF16: return ExponentsFor<BFloat>(b);
    default: return nullptr;
  }
}

template <typename A>
ChannelKernel ChannelsFor(DType b) {
  switch (b) {
    case DType::kF64: return &Channels<A, double>;
    case DType::kF32: return &Channels<A, float>;
    case DType::kF16: return &Channels<A, Half>;
    case DType::kBF16: return &Channels<A, BFloat>;
    default: return nullptr;
  }
}

ChannelKernel FindChannels(DType a, DType b) {
  switch (a) {
    case DType::kF64: return ChannelsFor<double>(b);
    case DType::kF32: return ChannelsFor<float>(b);
    case DType::kF16: return ChannelsFor<Half>(b);
    case DType::kBF16: return ChannelsFor<BFloat>(b);
    default: return nullptr;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace paritrace
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include "compare/pair_kernels.h"

namespace paritrace {
namespace {

HWY_EXPORT(FindExponents);
HWY_EXPORT(FindChannels);

}  // namespace

ExponentKernel FindExponentKernel(DType a, DType b) {
  SelectKernelTarget();
  return HWY_DYNAMIC_DISPATCH(FindExponents)(a, b);
}

ChannelKernel FindChannelKernel(DType a, DType b) {
  SelectKernelTarget();
  return HWY_DYNAMIC_DISPATCH(FindChannels)(a, b);
}

void AddExponent(double reference, double subject, int least_exponent, ExponentSums& sums) {
  constexpr double kLeastDifference = 0x1p-126;
  if (reference != 0 && subject != 0) sums.sign_flips += std::signbit(reference) != std::signbit(subject);
  const double difference = std::fabs(reference - subject);
  const int exponent = reference == 0 ? least_exponent : std::max(std::ilogb(reference), least_exponent);
  if (difference == 0 || (difference < kLeastDifference && least_exponent >= -126)) {
    ++sums.bins[0];
    return;
  }
  ++sums.bins[static_cast<std::size_t>(std::clamp(std::ilogb(difference) - exponent, -128, 127) + 128)];
  sums.max_scaled = std::max(sums.max_scaled, std::ldexp(difference, -exponent));
}

}  // namespace paritrace
#endif  // HWY_ONCE
