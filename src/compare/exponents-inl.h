// How large differences are beside the reference, by powers of two: one byte a pair, from the values' upper halves, where
// sign and exponent lie, so that a vector takes twice as many. Compiled once for each vector unit.
//
// What few values have (a flipped sign, a new maximum, infinity) shows there as a large exponent; rows that have one are
// looked at again, value by value.
#if defined(PARITRACE_COMPARE_EXPONENTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PARITRACE_COMPARE_EXPONENTS_INL_H_
#undef PARITRACE_COMPARE_EXPONENTS_INL_H_
#else
#define PARITRACE_COMPARE_EXPONENTS_INL_H_
#endif

#include <hwy/highway.h>

#include "compare/kernel_loads-inl.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace paritrace {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using DI = hn::RebindToSigned<DF>;
using VF = hn::Vec<DF>;
using VI = hn::Vec<DI>;

// A scaled difference is |a-b| / 2^floor(log2|a|), as a number that orders as an integer: the difference of the exponents
// above the mantissa of |a-b|. Its upper 16 bits are a word: the same with seven bits of the mantissa.
constexpr int kMantissaBits = 23, kWordMantissaBits = 7;
constexpr std::int32_t kExponentMask = 0x7F800000;
// Stands for "equal": below every other (exponents of f32 are never 128 apart downwards, see LookAgain).
constexpr std::int32_t kEqualExponent = -128;
constexpr std::int32_t kScaledOfEqual = kEqualExponent * (1 << kMantissaBits);
constexpr std::int16_t kWordOfEqual = kEqualExponent * (1 << kWordMantissaBits);

// Words from which on a row has to be looked at again.
struct ExponentLimits {
  ExponentLimits(int least_exponent, double max_scaled) : least(least_exponent) {
    if (max_scaled == 0) return;
    // As large as the maximum so far: the rest of the mantissa decides.
    const int exponent = std::ilogb(max_scaled);
    const auto mantissa = static_cast<int>(std::ldexp(max_scaled, kWordMantissaBits - exponent));
    word = std::min(0, exponent * (1 << kWordMantissaBits) + mantissa - (1 << kWordMantissaBits));
  }
  int least;
  int word = kWordOfEqual + 1;  // at most 0: where the signs differ, |a-b| is no smaller than |a|
};

struct FirstLook {
  std::int64_t equal = 0;
  bool unusual = false;
};

#if HWY_TARGET == HWY_SCALAR

HWY_INLINE FirstLook FindExponents(const float* a, const float* b, std::int64_t count, const ExponentLimits& limits,
                                   const std::byte* later, std::int64_t later_step, std::int8_t* bytes) {
  FirstLook look;
  look.unusual = true;  // and the second look finds the exponents
  for (std::int64_t i = 0; i < count; ++i) {
    look.equal +=
        static_cast<std::int64_t>(hn::CountTrue(DF(), hn::Eq(hn::LoadU(DF(), a + i), hn::LoadU(DF(), b + i))));
  }
  (void)limits;
  (void)later;
  (void)later_step;
  (void)bytes;
  return look;
}

#else

using DW = hn::Repartition<std::int16_t, DF>;
using VW = hn::Vec<DW>;

// The upper halves of both, in whatever order: they are only counted.
HWY_INLINE VW UpperHalves(VF first, VF second) {
  const hn::Repartition<std::uint16_t, DF> du16;
#if HWY_TARGET <= HWY_AVX3
  return hn::BitCast(DW(), hn::ConcatOdd(du16, hn::BitCast(du16, second), hn::BitCast(du16, first)));
#else
  const hn::RebindToUnsigned<DF> du32;
  const auto lower = hn::BitCast(du16, hn::ShiftRight<16>(hn::BitCast(du32, first)));
  return hn::BitCast(DW(), hn::OddEven(hn::BitCast(du16, second), lower));
#endif
}

// Writes the exponent of each scaled difference to bytes[0, count), -128 where a and b are equal or closer than 2^-126.
//   count: a multiple of kTileStep
//   later: as many values of a later tile, later_step bytes apart
// Unusual: some sign may differ, some value or difference may not be finite, some exponent may not fit a byte, there may be
// a new maximum, or `least` hides how small a reference is.
HWY_INLINE FirstLook FindExponents(const float* a, const float* b, std::int64_t count, const ExponentLimits& limits,
                                   const std::byte* later, std::int64_t later_step, std::int8_t* bytes) {
  const DF df;
  const DW dw;
  const hn::Repartition<std::uint8_t, DF> du8;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(df));
  const VW least = hn::Set(dw, static_cast<std::int16_t>((limits.least + 127) * (1 << kWordMantissaBits))),
           exponent_mask = hn::Set(dw, static_cast<std::int16_t>(kExponentMask >> 16)), no_sign = hn::Set(dw, 0x7FFF),
           least_normal = hn::Set(dw, 1 << kWordMantissaBits), equal_word = hn::Set(dw, kWordOfEqual);
  VW most = equal_word, smallest = no_sign;
  FirstLook look;
  const auto scaled = [&](std::int64_t i) HWY_ATTR {
    const VF a0 = hn::LoadU(df, a + i), a1 = hn::LoadU(df, a + i + lanes);
    const VF d0 = hn::Sub(a0, hn::LoadU(df, b + i)), d1 = hn::Sub(a1, hn::LoadU(df, b + i + lanes));
    look.equal += static_cast<std::int64_t>(hn::CountTrue(df, hn::Eq(d0, hn::Zero(df))));
    look.equal += static_cast<std::int64_t>(hn::CountTrue(df, hn::Eq(d1, hn::Zero(df))));
    const VW difference = hn::And(UpperHalves(d0, d1), no_sign), exponent = hn::And(UpperHalves(a0, a1), exponent_mask);
    // The mantissa of the difference stays behind, below the exponents' difference, and cannot borrow from it.
    const VW above = hn::Sub(difference, hn::Max(exponent, least));
    const VW word = hn::IfThenElse(hn::Lt(difference, least_normal), equal_word, above);
    most = hn::Max(most, word);
    smallest = hn::Min(smallest, exponent);
    return word;
  };
  for (std::int64_t i = 0; i < count; i += 4 * lanes) {
    for (std::int64_t k = 0; k < 4 * lanes; k += kValuesOfALine) AskFor(later + (i + k) * later_step);
    const VW first = scaled(i), second = scaled(i + 2 * lanes);
    const auto even = hn::BitCast(du8, hn::ShiftRight<kWordMantissaBits>(first));
    const auto odd = hn::BitCast(du8, hn::ShiftLeft<8 - kWordMantissaBits>(second));
    hn::StoreU(hn::OddEven(odd, even), du8, reinterpret_cast<std::uint8_t*>(bytes + i));
  }
  // Below 2^-126 nothing is hidden: such references are zero or subnormal, and flip no sign.
  const VW hidden = limits.least > -126 ? least : hn::Zero(dw);
  const VW last_usual = hn::Set(dw, static_cast<std::int16_t>(limits.word - 1));
  look.unusual = !hn::AllFalse(dw, hn::Gt(most, last_usual)) || !hn::AllFalse(dw, hn::Lt(smallest, hidden));
  return look;
}

#endif  // HWY_TARGET == HWY_SCALAR

struct SecondLook {
  bool finite = true;
  std::int64_t sign_flips = 0;
  double max_scaled = 0;
};

// The same, exactly; writes the bytes anew.
// No exponent is below -127: either |a-b| is at least |a|/2, or it is a multiple of the last place of a or b, which is no
// more than 25 powers of two below; and beside a reference smaller than 2^least, 2^-126 is no less than 2^(least-126).
HWY_INLINE SecondLook LookAgain(const float* a, const float* b, std::int64_t count, int least_exponent,
                                std::int8_t* bytes) {
  const DF df;
  const DI di;
  const hn::Rebind<std::int8_t, DI> di8;
  const VI exponent_mask = hn::Set(di, kExponentMask), least_normal = hn::Set(di, 1 << kMantissaBits),
           least = hn::Set(di, (least_exponent + 127) * (1 << kMantissaBits)), equal = hn::Set(di, kScaledOfEqual);
  VI most = equal, largest = hn::Zero(di);
  SecondLook look;
  for (std::int64_t i = 0; i < count; i += static_cast<std::int64_t>(hn::Lanes(df))) {
    const VF x = hn::LoadU(df, a + i), y = hn::LoadU(df, b + i);
    const VI x_bits = hn::BitCast(di, x), y_bits = hn::BitCast(di, y);
    const VI difference = hn::BitCast(di, hn::Abs(hn::Sub(x, y)));
    const VI x_exponent = hn::And(x_bits, exponent_mask), y_exponent = hn::And(y_bits, exponent_mask);
    const VI above = hn::Sub(difference, hn::Max(x_exponent, least));
    const VI scaled = hn::IfThenElse(hn::Lt(difference, least_normal), equal, above);
    most = hn::Max(most, scaled);
    largest = hn::Max(largest, difference);
    const VI normal = hn::Sub(hn::Min(x_exponent, y_exponent), least_normal);  // negative where one is not
    const VI flipped = hn::AndNot(normal, hn::Xor(x_bits, y_bits));
    look.sign_flips += static_cast<std::int64_t>(hn::CountTrue(di, hn::Lt(flipped, hn::Zero(di))));
    hn::StoreU(hn::DemoteTo(di8, hn::ShiftRight<kMantissaBits>(scaled)), di8, bytes + i);  // saturates
  }
  look.finite = hn::GetLane(hn::MaxOfLanes(di, largest)) < kExponentMask;
  const std::int32_t scaled = hn::GetLane(hn::MaxOfLanes(di, most));
  if (scaled == kScaledOfEqual) return look;
  const std::int32_t mantissa = scaled & ((1 << kMantissaBits) - 1);
  look.max_scaled = std::ldexp(1 + mantissa * 0x1p-23, scaled >> kMantissaBits);
  return look;
}

}  // namespace HWY_NAMESPACE
}  // namespace paritrace
HWY_AFTER_NAMESPACE();

#endif  // PARITRACE_COMPARE_EXPONENTS_INL_H_
