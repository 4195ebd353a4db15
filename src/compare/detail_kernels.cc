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

// The exponent that stands for "equal": below every other, and still no overflow when shifted left by 23.
constexpr std::int32_t kEqual = -255;
constexpr int kMantissaBits = 23;
// Values between two looks at whether a sign has flipped: mostly none has, and one look is cheaper than one count a value.
constexpr std::int64_t kBlock = 256;

using DF = hn::ScalableTag<float>;
using DI = hn::RebindToSigned<DF>;
using VF = hn::Vec<DF>;
using VI = hn::Vec<DI>;
constexpr std::int32_t kScaledOfEqual = kEqual * (1 << kMantissaBits);

// Counts of bytes. The additions are scalar, and run beside the vector arithmetic of later values in units that it leaves
// idle. Several tables, so that an addition seldom waits for the one before it.
class ByteCounts {
 public:
  // Eight bytes, at most 65535 times before Flush.
  HWY_INLINE void Add(const std::int8_t* bytes) {
    std::uint64_t word;
    std::memcpy(&word, bytes, sizeof(word));
    for (auto& table : tables_) {
      ++table[word & 0xFF];
      word >>= 8;
    }
  }
  HWY_INLINE void AddOne(std::int8_t byte) { ++tables_[0][static_cast<std::uint8_t>(byte)]; }

  // bins[k + 128] += how often k was added.
  void Flush(std::int64_t* bins) {
    for (std::size_t k = 0; k < 256; ++k) {
      std::int64_t sum = 0;
      for (auto& table : tables_) {
        sum += table[k];
        table[k] = 0;
      }
      bins[k ^ 0x80] += sum;
    }
  }

 private:
  std::uint16_t tables_[8][256] = {};
};

// Writes the exponents' difference, one byte a lane, saturated; holds the largest |a-b| / 2^exponent(a) in `most`: its
// exponent above its mantissa, which order as integers do.
//   least: the least exponent, where a float has it
HWY_INLINE void ExponentStep(VF a, VF b, VI least, std::int8_t* bytes, VI& most) {
  const DI di;
  const hn::Rebind<std::int8_t, DI> di8;
  const VI d_bits = hn::BitCast(di, hn::Abs(hn::Sub(a, b)));
  const VI a_exponent = hn::Max(hn::And(hn::BitCast(di, a), hn::Set(di, 0x7F800000)), least);
  // The mantissa of the difference stays behind, below the exponents' difference, and cannot borrow from it.
  const VI above = hn::Sub(d_bits, a_exponent);
  const auto is_equal = hn::Lt(d_bits, hn::Set(di, 1 << kMantissaBits));
  const VI scaled = hn::IfThenElse(is_equal, hn::Set(di, kScaledOfEqual), above);
  most = hn::Max(most, scaled);
  hn::StoreU(hn::DemoteTo(di8, hn::ShiftRight<kMantissaBits>(scaled)), di8, bytes);
}

// Lanes in which neither is zero or subnormal, and the signs differ.
HWY_INLINE std::int64_t CountFlips(VF a, VF b) {
  const DF df;
  // The factor keeps the product of two normal values from vanishing; where it overflows, the sign is still right.
  const VF product = hn::Mul(a, hn::Mul(b, hn::Set(df, 0x1p126f)));
  return static_cast<std::int64_t>(hn::CountTrue(df, hn::Lt(product, hn::Zero(df))));
}

template <typename A, typename B>
void Exponents(const void* a_values, const void* b_values, std::int64_t count, int least_exponent,
               std::ptrdiff_t a_next, std::ptrdiff_t b_next, ExponentSums& sums) {
  const DF df;
  const DI di;
  const auto* a = static_cast<const A*>(a_values);
  const auto* b = static_cast<const B*>(b_values);
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(df));
  const VI least = hn::Set(di, (least_exponent + 127) * (1 << kMantissaBits));
  HWY_ALIGN std::int8_t bytes[2 * kBlock];  // the block before and this one, in turn
  VI most = hn::Set(di, kScaledOfEqual);
  ByteCounts counts;
  std::int64_t until_flush = 65535;
  std::int64_t begin = 0;
  const std::int8_t* before = nullptr;
  for (; begin + kBlock <= count; begin += kBlock) {
    std::int8_t* const now = bytes + (begin & kBlock);
    VI signs = hn::Zero(di);
    for (std::int64_t i = 0; i < kBlock; i += lanes) {
      __builtin_prefetch(reinterpret_cast<const char*>(a + begin + i) + a_next, 0, 2);
      __builtin_prefetch(reinterpret_cast<const char*>(b + begin + i) + b_next, 0, 2);
      const VF x = LoadF32(df, a + begin + i), y = LoadF32(df, b + begin + i);
      signs = hn::Or(signs, hn::BitCast(di, hn::Xor(x, y)));
      ExponentStep(x, y, least, now + i, most);
      if (before == nullptr) continue;
      if (lanes % 8 == 0) {
        for (std::int64_t j = 0; j < lanes; j += 8) counts.Add(before + i + j);
      } else {
        for (std::int64_t j = 0; j < lanes; ++j) counts.AddOne(before[i + j]);
      }
    }
    before = now;
    if (hn::CountTrue(di, hn::Lt(signs, hn::Zero(di))) > 0) {
      for (std::int64_t i = 0; i < kBlock; i += lanes) {
        sums.sign_flips += CountFlips(LoadF32(df, a + begin + i), LoadF32(df, b + begin + i));
      }
    }
    if ((until_flush -= kBlock) < kBlock) {
      counts.Flush(sums.bins.data());
      until_flush = 65535;
    }
  }
  for (std::int64_t i = 0; before != nullptr && i < kBlock; ++i) counts.AddOne(before[i]);
  for (; begin < count; begin += lanes) {
    // Filled up with zeros, which are equal and flip no sign; their bytes are not counted.
    HWY_ALIGN A a_rest[hn::MaxLanes(df)] = {};
    HWY_ALIGN B b_rest[hn::MaxLanes(df)] = {};
    const auto rest = static_cast<std::size_t>(std::min(lanes, count - begin));
    std::memcpy(a_rest, a + begin, rest * sizeof(A));
    std::memcpy(b_rest, b + begin, rest * sizeof(B));
    ExponentStep(LoadF32(df, a_rest), LoadF32(df, b_rest), least, bytes, most);
    sums.sign_flips += CountFlips(LoadF32(df, a_rest), LoadF32(df, b_rest));
    for (std::size_t i = 0; i < rest; ++i) counts.AddOne(bytes[i]);
  }
  counts.Flush(sums.bins.data());
  const std::int32_t scaled = hn::GetLane(hn::MaxOfLanes(di, most));
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
