#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "compare/detail_kernels.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
// After foreach_target.h, as Highway asks.
#include <hwy/highway.h>

#include "compare/kernel_loads-inl.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "compare/detail_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace paritrace {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Values whose exponents are held as bytes at once; then counted, one possible value after the other. Rounding differences
// lie in some twenty bins, so that this is less work than one increment a value, and waits for no store.
constexpr std::int64_t kBlock = 4096;
// The exponent that stands for "equal": below every other, and still no overflow when shifted left by 23.
constexpr std::int32_t kEqual = -255;
constexpr int kMantissaBits = 23;

using DF = hn::ScalableTag<float>;
using DI = hn::RebindToSigned<DF>;
using VF = hn::Vec<DF>;
using VI = hn::Vec<DI>;

struct ExponentLanes {
  VI scaled;  // the largest |a-b| / 2^exponent(a): its exponent above its mantissa, which order as integers do
  VI flips;   // minus the number of sign flips
};

constexpr std::int32_t kScaledOfEqual = kEqual * (1 << kMantissaBits);

// Writes the exponents' difference, one byte a lane, saturated.
//   least: the least exponent, where a float has it
HWY_INLINE void ExponentStep(VF a, VF b, VI least, std::int8_t* bytes, ExponentLanes& lanes) {
  const DF df;
  const DI di;
  const hn::Rebind<std::int8_t, DI> di8;
  const VI d_bits = hn::BitCast(di, hn::Abs(hn::Sub(a, b)));
  const VI a_exponent = hn::Max(hn::And(hn::BitCast(di, a), hn::Set(di, 0x7F800000)), least);
  // The mantissa of the difference stays behind, below the exponents' difference, and cannot borrow from it.
  const VI above = hn::Sub(d_bits, a_exponent);
  const auto is_equal = hn::Lt(d_bits, hn::Set(di, 1 << kMantissaBits));
  const VI scaled = hn::IfThenElse(is_equal, hn::Set(di, kScaledOfEqual), above);
  lanes.scaled = hn::Max(lanes.scaled, scaled);
  hn::StoreU(hn::DemoteTo(di8, hn::ShiftRight<kMantissaBits>(scaled)), di8, bytes);
  // The factor keeps the product of two normal values from vanishing; where it overflows, the sign is still right.
  const VF product = hn::Mul(a, hn::Mul(b, hn::Set(df, 0x1p126f)));
  const auto flipped = hn::RebindMask(di, hn::Lt(product, hn::Zero(df)));
  lanes.flips = hn::IfThenElse(flipped, hn::Sub(lanes.flips, hn::Set(di, 1)), lanes.flips);
}

// counts, plus one in each lane where value is k.
template <class V8>
HWY_INLINE V8 CountEqual(V8 value, V8 k, V8 counts) {
  const hn::DFromV<V8> du8;
#if HWY_TARGET <= HWY_AVX3
  // One masked addition; elsewhere a comparison is a vector of minus ones already.
  return hn::IfThenElse(hn::Eq(value, k), hn::Add(counts, hn::Set(du8, 1)), counts);
#else
  return hn::Sub(counts, hn::VecFromMask(du8, hn::Eq(value, k)));
#endif
}

// Highway 1.0 has no minimum of bytes across its widest vectors: 16 of them at a time.
template <class V8>
HWY_INLINE int LeastByte(V8 values) {
  const hn::DFromV<V8> du8;
  const hn::CappedTag<std::uint8_t, 16> du8x16;
  HWY_ALIGN std::uint8_t bytes[hn::MaxLanes(du8)];
  hn::Store(values, du8, bytes);
  auto least = hn::Load(du8x16, bytes);
  for (std::size_t i = hn::Lanes(du8x16); i < hn::Lanes(du8); i += hn::Lanes(du8x16)) {
    least = hn::Min(least, hn::Load(du8x16, bytes + i));
  }
  return hn::GetLane(hn::MinOfLanes(du8x16, least));
}

// Adds the counts of each byte value to bins. `bytes` has room for a vector more, which is overwritten.
HWY_INLINE void CountBytes(std::int8_t* bytes, std::int64_t count, std::int64_t* bins) {
  const hn::ScalableTag<std::uint8_t> du8;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(du8));
  // As unsigned numbers that order alike; what fills the last vector counts as equal, and is taken back.
  auto* const from = reinterpret_cast<std::uint8_t*>(bytes);
  for (std::int64_t i = count; i % lanes != 0; ++i) bytes[i] = -128;
  const std::int64_t padded = (count + lanes - 1) / lanes * lanes;
  const auto flip = hn::Set(du8, 0x80), one = hn::Set(du8, 1);
  // Equal pairs lie far from all others and would stretch the range: minus one, they wrap to the top and out of the minimum.
  auto low = hn::Set(du8, 255), high = hn::Zero(du8);
  for (std::int64_t i = 0; i < padded; i += lanes) {
    const auto value = hn::Xor(hn::LoadU(du8, from + i), flip);
    hn::StoreU(value, du8, from + i);
    low = hn::Min(low, hn::Sub(value, one));
    high = hn::Max(high, value);
  }
  const int first = LeastByte(low) + 1, last = 255 - LeastByte(hn::Not(high));
  // A byte counts to 255: as many vectors are added up before they are summed.
  constexpr std::int64_t kMostAdditions = 255;
  const auto sum = [&](const auto& counts) {
    const hn::RepartitionToWide<hn::RepartitionToWide<hn::RepartitionToWide<decltype(du8)>>> du64;
    return static_cast<std::int64_t>(hn::GetLane(hn::SumOfLanes(du64, hn::SumsOf8(counts))));
  };
  std::int64_t others = 0;
  for (std::int64_t begin = 0; begin < padded; begin += kMostAdditions * lanes) {
    const std::int64_t end = std::min(padded, begin + kMostAdditions * lanes);
    for (int k = first; k <= last; k += 4) {
      const auto k0 = hn::Set(du8, static_cast<std::uint8_t>(k)), k1 = hn::Add(k0, one), k2 = hn::Add(k1, one),
                 k3 = hn::Add(k2, one);
      auto c0 = hn::Zero(du8), c1 = c0, c2 = c0, c3 = c0;
      for (std::int64_t i = begin; i < end; i += lanes) {
        const auto value = hn::LoadU(du8, from + i);
        c0 = CountEqual(value, k0, c0);
        c1 = CountEqual(value, k1, c1);
        c2 = CountEqual(value, k2, c2);
        c3 = CountEqual(value, k3, c3);
      }
      const std::int64_t counts[4] = {sum(c0), sum(c1), sum(c2), sum(c3)};
      for (int j = 0; j < 4 && k + j <= last; ++j) {
        bins[k + j] += counts[j];
        others += counts[j];
      }
    }
  }
  bins[0] += count - others;
}

template <typename A, typename B>
void Exponents(const void* a_values, const void* b_values, std::int64_t count, int least_exponent, ExponentSums& sums) {
  const DF df;
  const DI di;
  const auto* a = static_cast<const A*>(a_values);
  const auto* b = static_cast<const B*>(b_values);
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(df));
  const VI least = hn::Set(di, (least_exponent + 127) * (1 << kMantissaBits));
  HWY_ALIGN std::int8_t bytes[kBlock + hn::MaxLanes(hn::ScalableTag<std::int8_t>())];
  ExponentLanes all = {hn::Set(di, kScaledOfEqual), hn::Zero(di)};
  for (std::int64_t begin = 0; begin < count; begin += kBlock) {
    const std::int64_t now = std::min(kBlock, count - begin);
    std::int64_t i = 0;
    for (; i + lanes <= now; i += lanes) {
      ExponentStep(LoadF32(df, a + begin + i), LoadF32(df, b + begin + i), least, bytes + i, all);
    }
    if (i < now) {  // filled up with zeros, which are equal and flip no sign; their bytes are not counted
      HWY_ALIGN A a_rest[hn::MaxLanes(df)] = {};
      HWY_ALIGN B b_rest[hn::MaxLanes(df)] = {};
      const auto rest = static_cast<std::size_t>(now - i);
      std::memcpy(a_rest, a + begin + i, rest * sizeof(A));
      std::memcpy(b_rest, b + begin + i, rest * sizeof(B));
      ExponentStep(LoadF32(df, a_rest), LoadF32(df, b_rest), least, bytes + i, all);
    }
    CountBytes(bytes, now, sums.bins.data());
  }
  sums.sign_flips -= hn::GetLane(hn::SumOfLanes(di, all.flips));
  const std::int32_t scaled = hn::GetLane(hn::MaxOfLanes(di, all.scaled));
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
