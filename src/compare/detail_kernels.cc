#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "compare/detail_kernels.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
// After foreach_target.h, as Highway asks.
#include <hwy/highway.h>

#include "compare/exponent_counts-inl.h"
#include "compare/exponents-inl.h"
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

// The sums of one row, in registers.
struct RowVectors {
  using D = hn::ScalableTag<double>;
  using V = hn::Vec<D>;

  HWY_INLINE explicit RowVectors(const RowLanes& from)
      : max_abs(hn::Load(D(), from.max_abs.data())),
        aa(hn::Load(D(), from.aa.data())),
        bb(hn::Load(D(), from.bb.data())),
        ab(hn::Load(D(), from.ab.data())),
        dd(hn::Load(D(), from.dd.data())) {}

  HWY_INLINE void Store(RowLanes& to) const {
    hn::Store(max_abs, D(), to.max_abs.data());
    hn::Store(aa, D(), to.aa.data());
    hn::Store(bb, D(), to.bb.data());
    hn::Store(ab, D(), to.ab.data());
    hn::Store(dd, D(), to.dd.data());
  }

  HWY_INLINE void Add(const float* a_at, const float* b_at, V& abs, V& column_error, V& column_energy) {
    const V a = LoadF64(D(), a_at), b = LoadF64(D(), b_at);
    const V difference = hn::Sub(a, b), magnitude = hn::Abs(difference);
    abs = hn::Add(abs, magnitude);
    max_abs = hn::Max(max_abs, magnitude);
    aa = hn::MulAdd(a, a, aa);
    bb = hn::MulAdd(b, b, bb);
    ab = hn::MulAdd(a, b, ab);
    dd = hn::MulAdd(difference, difference, dd);
    column_error = hn::MulAdd(difference, difference, column_error);
    column_energy = hn::MulAdd(a, a, column_energy);
  }

  V max_abs, aa, bb, ab, dd;
};

// Rows [row, row + kRows) of the tile: one, two or four.
template <int kRows>
void AddRows(const Tile& tile, std::int64_t row, TileSums& sums, double* error, double* energy) {
  const RowVectors::D d;
  const float* a = tile.a + row * tile.a_stride;
  const float* b = tile.b + row * tile.b_stride;
  RowLanes* const lanes = sums.rows.data() + row;
  // Those beyond kRows are never used, and the compiler drops them.
  RowVectors r0(lanes[0]), r1(lanes[kRows > 1 ? 1 : 0]), r2(lanes[kRows > 2 ? 2 : 0]), r3(lanes[kRows > 2 ? 3 : 0]);
  auto abs = hn::Load(d, sums.abs.data());
  for (std::int64_t c = 0; c < tile.columns; c += static_cast<std::int64_t>(hn::Lanes(d))) {
    if (c % kValuesOfALine == 0) {
      for (int r = 0; r < kRows; ++r) AskFor(tile.b_later.At(row + r, c));
    }
    auto column_error = hn::LoadU(d, error + c), column_energy = hn::LoadU(d, energy + c);
    r0.Add(a + c, b + c, abs, column_error, column_energy);
    if constexpr (kRows > 1) {
      r1.Add(a + tile.a_stride + c, b + tile.b_stride + c, abs, column_error, column_energy);
    }
    if constexpr (kRows > 2) {
      r2.Add(a + 2 * tile.a_stride + c, b + 2 * tile.b_stride + c, abs, column_error, column_energy);
      r3.Add(a + 3 * tile.a_stride + c, b + 3 * tile.b_stride + c, abs, column_error, column_energy);
    }
    hn::StoreU(column_error, d, error + c);
    hn::StoreU(column_energy, d, energy + c);
  }
  hn::Store(abs, d, sums.abs.data());
  r0.Store(lanes[0]);
  if constexpr (kRows > 1) r1.Store(lanes[1]);
  if constexpr (kRows > 2) r2.Store(lanes[2]);
  if constexpr (kRows > 2) r3.Store(lanes[3]);
}

bool AddTile(const Tile& tile, int least_exponent, TileSums& sums, double* error, double* energy) {
  const std::int64_t padded = (tile.columns + kTileStep - 1) / kTileStep * kTileStep;
  PendingExponents& pending = sums.pending;
  if (pending.count + tile.rows * padded > PendingExponents::kCapacity) {
    CountExponents(pending, sums.exponents.bins);
  }
  std::int8_t* const bytes = pending.bytes.data() + pending.count;
  const ExponentLimits limits(least_exponent, sums.exponents.max_scaled);
  std::array<std::int64_t, kTileRows> equal{};
  std::array<SecondLook, kTileRows> second{};
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const float* const a = tile.a + r * tile.a_stride;
    const float* const b = tile.b + r * tile.b_stride;
    const auto at = static_cast<std::size_t>(r);
    const FirstLook first =
        FindExponents(a, b, padded, limits, tile.a_later.At(r, 0), tile.a_later.value_bytes, bytes + r * padded);
    equal[at] = first.equal;
    if (first.unusual) second[at] = LookAgain(a, b, padded, least_exponent, bytes + r * padded);
    if (!second[at].finite) return false;
  }
  const std::int64_t filled_up = padded - tile.columns;
  pending.count += tile.rows * padded;
  sums.exponents.bins[0] -= tile.rows * filled_up;
  for (std::size_t r = 0; r < static_cast<std::size_t>(tile.rows); ++r) {
    sums.equal[r] += equal[r] - filled_up;
    sums.exponents.sign_flips += second[r].sign_flips;
    sums.exponents.max_scaled = std::max(sums.exponents.max_scaled, second[r].max_scaled);
  }
  std::int64_t row = 0;
#if HWY_TARGET <= HWY_AVX3
  // Only 32 registers hold the sums of four rows.
  for (; row + 4 <= tile.rows; row += 4) AddRows<4>(tile, row, sums, error, energy);
#endif
  for (; row + 2 <= tile.rows; row += 2) AddRows<2>(tile, row, sums, error, energy);
  for (; row < tile.rows; ++row) AddRows<1>(tile, row, sums, error, energy);
  return true;
}

void CountPending(TileSums& sums) { CountExponents(sums.pending, sums.exponents.bins); }

TileKernel FindTile() { return {&AddTile, &CountPending}; }

template <typename T>
void Widen(const void* values, std::int64_t count, float* out) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto* const from = static_cast<const T*>(values);
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(LoadF32(d, from + i), d, out + i);
  if (i == count) return;
  const auto rest = static_cast<std::size_t>(count - i);
  HWY_ALIGN T narrow[hn::MaxLanes(d)] = {};
  HWY_ALIGN float wide[hn::MaxLanes(d)];
  std::memcpy(narrow, from + i, rest * sizeof(T));
  hn::Store(LoadF32(d, narrow), d, wide);
  std::memcpy(out + i, wide, rest * sizeof(float));
}

WidenKernel FindWiden(DType dtype) {
  switch (dtype) {
    case DType::kF16: return &Widen<Half>;
    case DType::kBF16: return &Widen<BFloat>;
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

HWY_EXPORT(FindTile);
HWY_EXPORT(FindWiden);

}  // namespace

TileKernel FindTileKernel() {
  SelectKernelTarget();
  return HWY_DYNAMIC_DISPATCH(FindTile)();
}

WidenKernel FindWidenKernel(DType dtype) {
  SelectKernelTarget();
  return HWY_DYNAMIC_DISPATCH(FindWiden)(dtype);
}

void ExponentSums::Merge(const ExponentSums& other) {
  for (std::size_t i = 0; i < bins.size(); ++i) bins[i] += other.bins[i];
  sign_flips += other.sign_flips;
  max_scaled = std::max(max_scaled, other.max_scaled);
}

void AddExponent(double reference, double subject, double difference, int least_exponent, ExponentSums& sums) {
  // Of values that f32 holds, subnormal ones count as zero.
  const double least_normal = least_exponent >= -126 ? 0x1p-126 : 0x1p-1022;
  if (std::fabs(reference) >= least_normal && std::fabs(subject) >= least_normal) {
    sums.sign_flips += std::signbit(reference) != std::signbit(subject);
  }
  const double magnitude = std::fabs(difference);
  if (magnitude == 0 || (magnitude < least_normal && least_exponent >= -126)) {
    ++sums.bins[0];
    return;
  }
  const int exponent = reference == 0 ? least_exponent : std::max(std::ilogb(reference), least_exponent);
  ++sums.bins[static_cast<std::size_t>(std::clamp(std::ilogb(magnitude) - exponent, -127, 127) + 128)];
  sums.max_scaled = std::max(sums.max_scaled, std::ldexp(magnitude, -exponent));
}

}  // namespace paritrace
#endif  // HWY_ONCE
