#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "graph/dot_kernels.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
// After foreach_target.h, as Highway asks.
#include <hwy/highway.h>

#include <cstdint>

#include "graph/dot_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace paritrace {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// kTiles vectors of tokens by kRows rows: their sums stay in registers. No fused multiply-add: targets without one would
// give other numbers.
template <int kRows, int kTiles, typename T, class D>
HWY_INLINE void Tile(D d, const T* w, const T* x, std::int64_t in, T* out) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  hn::Vec<D> sums[kRows][kTiles];
  for (auto& row : sums) {
    for (auto& sum : row) sum = hn::Zero(d);
  }
  for (std::int64_t i = 0; i < in; ++i) {
    hn::Vec<D> tokens[kTiles];
    for (int k = 0; k < kTiles; ++k) tokens[k] = hn::LoadU(d, x + i * kDotLanes + k * lanes);
    for (int r = 0; r < kRows; ++r) {
      const auto weight = hn::Set(d, w[r * in + i]);
      for (int k = 0; k < kTiles; ++k) sums[r][k] = hn::Add(sums[r][k], hn::Mul(weight, tokens[k]));
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int k = 0; k < kTiles; ++k) hn::StoreU(sums[r][k], d, out + r * kDotLanes + k * lanes);
  }
}

template <typename T>
HWY_INLINE void Block(const T* w, const T* x, std::int64_t in, T* out) {
  const hn::CappedTag<T, kDotLanes> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  // As many sums as there are registers to hold them: 16 of 32 with AVX-512, else 8 of 16.
  constexpr bool kManyRegisters = HWY_TARGET <= HWY_AVX3;
  for (std::int64_t t = 0; t < kDotLanes;) {
    const std::int64_t left = (kDotLanes - t) / lanes;
    if (left >= 2) {
      if constexpr (kManyRegisters) {
        Tile<8, 2>(d, w, x + t, in, out + t);
      } else {
        Tile<4, 2>(d, w, x + t, in, out + t);
        Tile<4, 2>(d, w + 4 * in, x + t, in, out + 4 * kDotLanes + t);
      }
      t += 2 * lanes;
    } else {
      Tile<8, 1>(d, w, x + t, in, out + t);
      t += lanes;
    }
  }
}

void Block64(const double* w, const double* x, std::int64_t in, double* out) { Block(w, x, in, out); }
void Block32(const float* w, const float* x, std::int64_t in, float* out) { Block(w, x, in, out); }

}  // namespace HWY_NAMESPACE
}  // namespace paritrace
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace paritrace {
namespace {

HWY_EXPORT(Block64);
HWY_EXPORT(Block32);

}  // namespace

void DotBlock(const double* w, const double* x, std::int64_t in, double* out) {
  HWY_DYNAMIC_DISPATCH(Block64)(w, x, in, out);
}

void DotBlock(const float* w, const float* x, std::int64_t in, float* out) {
  HWY_DYNAMIC_DISPATCH(Block32)(w, x, in, out);
}

}  // namespace paritrace
#endif  // HWY_ONCE
