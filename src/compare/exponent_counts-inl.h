// Counts how often each number occurs among bytes: the histogram of exponents. Compiled once for each vector unit.
//
// Most exponents lie close together: a rounding error has half as many values for each power of two below its largest. So
// sixteen neighbouring numbers are counted a vector at a time, the rest one by one. A byte becomes one bit among sixteen, and
// full adders count each bit over all bytes at once.
// Source: the adders are Harley and Seal's, Mula, Kurz, Lemire: Faster Population Counts Using AVX2 Instructions, 2018.
#if defined(PARITRACE_COMPARE_EXPONENT_COUNTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PARITRACE_COMPARE_EXPONENT_COUNTS_INL_H_
#undef PARITRACE_COMPARE_EXPONENT_COUNTS_INL_H_
#else
#define PARITRACE_COMPARE_EXPONENT_COUNTS_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

#include "compare/detail_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace paritrace {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using ExponentBins = std::array<std::int64_t, 256>;

#if HWY_TARGET == HWY_SCALAR

inline void CountExponents(PendingExponents& pending, ExponentBins& bins) {
  for (std::int64_t i = 0; i < pending.count; ++i)
    ++bins[static_cast<std::size_t>(pending.bytes[static_cast<std::size_t>(i)] + 128)];
  pending.count = 0;
}

#else

constexpr std::int8_t kEqualByte = -128;
constexpr int kWindow = 16;

using DByte = hn::ScalableTag<std::uint8_t>;
using VByte = hn::Vec<DByte>;

// Sixteen bits for each byte of a vector: one for each number in the window.
struct Bits {
  VByte low, high;
};

HWY_INLINE Bits NoBits() { return {hn::Zero(DByte()), hn::Zero(DByte())}; }

// sum becomes the lower bit of sum + a + b; returns the upper.
HWY_INLINE VByte AddBits(VByte& sum, VByte a, VByte b) {
  const VByte either = hn::Xor(sum, a);
#if HWY_TARGET <= HWY_AVX3
  const VByte carry = hn::IfVecThenElse(either, b, sum);  // elsewhere by whole bytes, not bit by bit
#else
  const VByte carry = hn::Or(hn::And(either, b), hn::AndNot(either, sum));
#endif
  sum = hn::Xor(either, b);
  return carry;
}

HWY_INLINE Bits AddBits(Bits& sum, const Bits& a, const Bits& b) {
  return {AddBits(sum.low, a.low, b.low), AddBits(sum.high, a.high, b.high)};
}

// counts[k] += weight * (bytes that have the bit k).
HWY_INLINE void CountBits(const Bits& bits, std::int64_t weight, std::int64_t* counts) {
  const DByte d;
  for (int k = 0; k < 8; ++k) {
    const VByte bit = hn::Set(d, static_cast<std::uint8_t>(1u << k));
    counts[k] += weight * static_cast<std::int64_t>(hn::CountTrue(d, hn::TestBit(bits.low, bit)));
    counts[k + 8] += weight * static_cast<std::int64_t>(hn::CountTrue(d, hn::TestBit(bits.high, bit)));
  }
}

class ExponentCounter {
 public:
  ExponentCounter(int first, ExponentBins& bins) : first_(first), bins_(bins) {}

  // count: a multiple of kStep vectors.
  HWY_INLINE void Add(const std::int8_t* bytes, std::int64_t count) {
    const auto step = kStep * static_cast<std::int64_t>(hn::Lanes(DByte()));
    std::int64_t counts[kWindow] = {};
    Bits ones = NoBits(), twos = ones, fours = ones, eights = ones;
    for (std::int64_t i = 0; i < count; i += step) {
      const auto two = [&](int at) {
        const Bits first = BitsOf(bytes + i, at), second = BitsOf(bytes + i, at + 1);
        return AddBits(ones, first, second);
      };
      const auto four = [&](int at) {
        const Bits first = two(at), second = two(at + 2);
        return AddBits(twos, first, second);
      };
      const auto eight = [&](int at) {
        const Bits first = four(at), second = four(at + 4);
        return AddBits(fours, first, second);
      };
      const Bits first = eight(0), second = eight(8);
      CountBits(AddBits(eights, first, second), 16, counts);
    }
    CountBits(eights, 8, counts);
    CountBits(fours, 4, counts);
    CountBits(twos, 2, counts);
    CountBits(ones, 1, counts);
    for (int k = 0; k < kWindow; ++k) {
      bins_[static_cast<std::size_t>(first_ + k + 128)] += counts[k];
      inside_ += counts[k];
    }
  }

  // Numbers in the window, and others that are not kEqualByte.
  [[nodiscard]] std::int64_t inside() const { return inside_; }
  [[nodiscard]] std::int64_t outside() const { return outside_; }

  static constexpr int kStep = 16;

 private:
  HWY_INLINE Bits BitsOf(const std::int8_t* bytes, int at) {
    const DByte d;
    const hn::Repartition<std::int8_t, DByte> ds;
    HWY_ALIGN static constexpr std::uint8_t kLow[16] = {1, 2, 4, 8, 16, 32, 64, 128};
    HWY_ALIGN static constexpr std::uint8_t kHigh[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128};
    const std::int8_t* const from = bytes + at * static_cast<std::int64_t>(hn::Lanes(d));
    const VByte value = hn::BitCast(d, hn::LoadU(ds, from));
    // 0x70 to 0x7F inside the window, 0x80 and more outside, where the tables give nothing.
    const VByte place = hn::SaturatedAdd(hn::Sub(value, hn::Set(d, static_cast<std::uint8_t>(first_))),
                                         hn::Set(d, std::uint8_t{0x80 - kWindow}));
    const auto outside = hn::MaskFromVec(hn::BroadcastSignBit(hn::BitCast(ds, place)));
    if (HWY_UNLIKELY(!hn::AllFalse(ds, outside))) CountOthers(from, outside);
    return {hn::TableLookupBytesOr0(hn::LoadDup128(d, kLow), place),
            hn::TableLookupBytesOr0(hn::LoadDup128(d, kHigh), place)};
  }

  template <class Mask>
  HWY_INLINE void CountOthers(const std::int8_t* from, Mask outside) {
    const hn::Repartition<std::int8_t, DByte> ds;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(ds));
    const auto others = hn::AndNot(hn::Eq(hn::LoadU(ds, from), hn::Set(ds, kEqualByte)), outside);
    HWY_ALIGN std::uint8_t bits[hn::MaxLanes(ds) / 8 + 8];
    hn::StoreMaskBits(ds, others, bits);
    for (std::int64_t word = 0; word < lanes; word += 64) {
      std::uint64_t rest = 0;
      std::memcpy(&rest, bits + word / 8, static_cast<std::size_t>(std::min<std::int64_t>(8, lanes / 8)));
      for (; rest != 0; rest &= rest - 1) {
        ++bins_[static_cast<std::size_t>(from[word + std::countr_zero(rest)] + 128)];
        ++outside_;
      }
    }
  }

  const int first_;
  ExponentBins& bins_;
  std::int64_t inside_ = 0, outside_ = 0;
};

// Most of the window below the number met most often so far; at the very start, below the largest of the first few.
inline int BestWindow(const PendingExponents& pending, const ExponentBins& bins) {
  const auto often = std::max_element(bins.begin() + 1, bins.end());
  int most = static_cast<int>(often - bins.begin()) - 128;
  if (*often == 0)
    most = *std::max_element(pending.bytes.begin(), pending.bytes.begin() + std::min<std::int64_t>(pending.count, 64));
  return std::clamp(most - 10, kEqualByte + 1, 128 - kWindow);
}

// bins[k + 128] += how often k is among the bytes that wait; none waits any more.
inline void CountExponents(PendingExponents& pending, ExponentBins& bins) {
  if (pending.count == 0) return;
  if (pending.window == PendingExponents::kUnknown) pending.window = BestWindow(pending, bins);
  const auto step = ExponentCounter::kStep * static_cast<std::int64_t>(hn::Lanes(DByte()));
  const std::int64_t padded = (pending.count + step - 1) / step * step;
  std::fill(pending.bytes.begin() + pending.count, pending.bytes.begin() + padded, kEqualByte);
  ExponentCounter counter(pending.window, bins);
  counter.Add(pending.bytes.data(), padded);
  bins[0] += pending.count - counter.inside() - counter.outside();
  // Looked for again only where it would help: the search costs as much as some hundred values.
  if (counter.outside() > pending.count / 16) pending.window = BestWindow(pending, bins);
  pending.count = 0;
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace paritrace
HWY_AFTER_NAMESPACE();

#endif  // PARITRACE_COMPARE_EXPONENT_COUNTS_INL_H_
