// Loads of f64, f32, f16 and bf16 as lanes of f32 or f64. Compiled once for each vector unit, like the kernels that use it.
#if defined(PARITRACE_COMPARE_KERNEL_LOADS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PARITRACE_COMPARE_KERNEL_LOADS_INL_H_
#undef PARITRACE_COMPARE_KERNEL_LOADS_INL_H_
#else
#define PARITRACE_COMPARE_KERNEL_LOADS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace paritrace {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Asks for a line of memory into the second-level cache. To be spread over arithmetic: a core has few misses under way at
// once, and what comes in a burst waits for each other, and the arithmetic for it.
HWY_INLINE void AskFor(const std::byte* at) { __builtin_prefetch(at, 0, 2); }
constexpr std::int64_t kValuesOfALine = 16;  // of f32, the widest type that tiles hold

struct Half {
  std::uint16_t bits;
};
struct BFloat {
  std::uint16_t bits;
};

template <class DF>
HWY_INLINE hn::Vec<DF> LoadF32(DF df, const float* p) {
  return hn::LoadU(df, p);
}

template <class DF>
HWY_INLINE hn::Vec<DF> LoadF32(DF df, const BFloat* p) {
  const hn::Rebind<std::uint16_t, DF> du16;
  const hn::Rebind<std::uint32_t, DF> du32;
  const auto bits = hn::PromoteTo(du32, hn::LoadU(du16, reinterpret_cast<const std::uint16_t*>(p)));
  return hn::BitCast(df, hn::ShiftLeft<16>(bits));
}

template <class DF>
HWY_INLINE hn::Vec<DF> LoadF32(DF df, const Half* p) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  const hn::Rebind<hwy::float16_t, DF> df16;
  return hn::PromoteTo(df, hn::LoadU(df16, reinterpret_cast<const hwy::float16_t*>(p)));
#else
  // Highway's own emulation turns infinity and NaN into large finite values; here they must stay what they are.
  const hn::Rebind<std::uint16_t, DF> du16;
  const hn::Rebind<std::uint32_t, DF> du32;
  const auto bits = hn::PromoteTo(du32, hn::LoadU(du16, reinterpret_cast<const std::uint16_t*>(p)));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(bits, hn::Set(du32, 0x7FFFu)));
  // 2^112 moves f16's exponent bias of 15 to f32's 127; subnormals come out normalised by the same product.
  const auto scaled = hn::Mul(hn::BitCast(df, magnitude), hn::Set(df, 0x1p112f));
  const auto nonfinite = hn::Ge(hn::BitCast(df, magnitude), hn::BitCast(df, hn::Set(du32, 0x7C00u << 13)));
  const auto exponent = hn::IfThenElseZero(nonfinite, hn::BitCast(df, hn::Set(du32, 0x7F800000u)));
  const auto sign = hn::BitCast(df, hn::ShiftLeft<16>(hn::And(bits, hn::Set(du32, 0x8000u))));
  return hn::Or(hn::Or(scaled, exponent), sign);
#endif
}

template <class D>
HWY_INLINE hn::Vec<D> LoadF64(D d, const double* p) {
  return hn::LoadU(d, p);
}

template <class D, typename T>
HWY_INLINE hn::Vec<D> LoadF64(D d, const T* p) {
  return hn::PromoteTo(d, LoadF32(hn::Rebind<float, D>(), p));
}

}  // namespace HWY_NAMESPACE
}  // namespace paritrace
HWY_AFTER_NAMESPACE();

#endif  // PARITRACE_COMPARE_KERNEL_LOADS_INL_H_
