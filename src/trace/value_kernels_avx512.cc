#include "trace/value_kernels_avx512.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "core/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace paritrace {

#if defined(__x86_64__)
namespace {

#define PARITRACE_TARGET_AVX512 __attribute__((target("avx512f,avx512dq")))
#define PARITRACE_INLINE_AVX512 PARITRACE_TARGET_AVX512 inline __attribute__((always_inline))

// Bits of vfpclass: quiet NaN, both infinities, signalling NaN; and the NaNs alone.
constexpr int kNotFinite = 0x99, kNan = 0x81;
constexpr std::int64_t kTile = 2048;

// Masked, with all lanes, where g++ 12 warns of what the plain ones leave undefined.
constexpr __mmask8 kAll8 = 0xff;
constexpr __mmask16 kAll16 = 0xffff;

PARITRACE_INLINE_AVX512 __m512d Load8(const float* from) { return _mm512_maskz_cvtps_pd(kAll8, _mm256_loadu_ps(from)); }
PARITRACE_INLINE_AVX512 __m512d Load8(const double* from) { return _mm512_loadu_pd(from); }

// sum + value^2. The square of a float is exact in a double, so that the fused form rounds as the other does.
PARITRACE_INLINE_AVX512 __m512d AddSquare(const float*, __m512d value, __m512d sum) {
  return _mm512_fmadd_pd(value, value, sum);
}
PARITRACE_INLINE_AVX512 __m512d AddSquare(const double*, __m512d value, __m512d sum) {
  return _mm512_add_pd(sum, _mm512_mul_pd(value, value));
}

struct Sums {
  __m512d sums[2], squares[2];
  __m512d min, max;
  std::int64_t nan, inf, masked;
};

PARITRACE_INLINE_AVX512 void AddTile(const double* from, std::int64_t count, Sums& to) {
  Sums s = to;
  for (std::int64_t i = 0; i < count; i += kSumLanes) {
    const __m512d low = Load8(from + i), high = Load8(from + i + 8);
    s.sums[0] = _mm512_add_pd(s.sums[0], low);
    s.sums[1] = _mm512_add_pd(s.sums[1], high);
    s.squares[0] = AddSquare(from, low, s.squares[0]);
    s.squares[1] = AddSquare(from, high, s.squares[1]);
    s.min = _mm512_maskz_min_pd(kAll8, _mm512_maskz_min_pd(kAll8, low, high), s.min);
    s.max = _mm512_maskz_max_pd(kAll8, _mm512_maskz_max_pd(kAll8, low, high), s.max);
  }
  to = s;
}

// Floats are compared as floats, sixteen at a time.
PARITRACE_INLINE_AVX512 void AddTile(const float* from, std::int64_t count, Sums& to) {
  Sums s = to;
  const float infinity = std::numeric_limits<float>::infinity();
  __m512 min = _mm512_set1_ps(infinity), max = _mm512_set1_ps(-infinity);
  for (std::int64_t i = 0; i < count; i += kSumLanes) {
    const __m512d low = Load8(from + i), high = Load8(from + i + 8);
    const __m512 both = _mm512_loadu_ps(from + i);
    s.sums[0] = _mm512_add_pd(s.sums[0], low);
    s.sums[1] = _mm512_add_pd(s.sums[1], high);
    s.squares[0] = AddSquare(from, low, s.squares[0]);
    s.squares[1] = AddSquare(from, high, s.squares[1]);
    min = _mm512_maskz_min_ps(kAll16, both, min);
    max = _mm512_maskz_max_ps(kAll16, both, max);
  }
  alignas(64) float least[16], most[16];
  _mm512_store_ps(least, min);
  _mm512_store_ps(most, max);
  s.min = _mm512_maskz_min_pd(kAll8, _mm512_maskz_min_pd(kAll8, Load8(least), Load8(least + 8)), s.min);
  s.max = _mm512_maskz_max_pd(kAll8, _mm512_maskz_max_pd(kAll8, Load8(most), Load8(most + 8)), s.max);
  to = s;
}

// Looks at each value.
template <typename T>
PARITRACE_INLINE_AVX512 void AddTileWithCare(const T* from, std::int64_t count, double mask_bound, Sums& to) {
  Sums s = to;
  const __m512d bound = _mm512_set1_pd(mask_bound);
  for (std::int64_t i = 0; i < count; i += 8) {
    const std::int64_t half = i / 8 % 2;
    const __m512d value = Load8(from + i);
    const __mmask8 masked = _mm512_cmp_pd_mask(value, bound, _CMP_LE_OQ);
    const __mmask8 nan = _mm512_fpclass_pd_mask(value, kNan), odd = _mm512_fpclass_pd_mask(value, kNotFinite);
    const auto kept = static_cast<__mmask8>(~(masked | odd));
    const __m512d rest = _mm512_maskz_mov_pd(kept, value);
    s.sums[half] = _mm512_add_pd(s.sums[half], rest);
    s.squares[half] = AddSquare(from, rest, s.squares[half]);
    s.min = _mm512_mask_min_pd(s.min, kept, rest, s.min);
    s.max = _mm512_mask_max_pd(s.max, kept, rest, s.max);
    s.nan += std::popcount(static_cast<unsigned>(nan));
    s.masked += std::popcount(static_cast<unsigned>(masked));
    s.inf += std::popcount(static_cast<unsigned>(odd & ~nan & ~masked) & 0xffu);
  }
  to = s;
}

PARITRACE_INLINE_AVX512 bool AreFinite(const __m512d* squares) {
  return (_mm512_fpclass_pd_mask(squares[0], kNotFinite) | _mm512_fpclass_pd_mask(squares[1], kNotFinite)) == 0;
}

template <typename T>
PARITRACE_TARGET_AVX512 void AddAll(const T* values, std::int64_t count, double mask_bound, Moments& moments) {
  const double infinity = std::numeric_limits<double>::infinity();
  Sums s{.sums = {_mm512_loadu_pd(&moments.sums[0]), _mm512_loadu_pd(&moments.sums[8])},
         .squares = {_mm512_loadu_pd(&moments.squares[0]), _mm512_loadu_pd(&moments.squares[8])},
         .min = _mm512_set1_pd(infinity),
         .max = _mm512_set1_pd(-infinity),
         .nan = 0,
         .inf = 0,
         .masked = 0};
  for (std::int64_t begin = 0; begin < count; begin += kTile) {
    const T* const from = values + begin;
    const std::int64_t size = std::min(kTile, count - begin), whole = size / kSumLanes * kSumLanes;
    bool done = false;
    if (std::isnan(mask_bound)) {
      const Sums before = s;
      AddTile(from, whole, s);
      // One that is not finite makes a sum of squares not finite, too: then again, looking at each.
      done = AreFinite(s.squares);
      if (!done) s = before;
    }
    if (!done) AddTileWithCare(from, whole, mask_bound, s);
    if (whole == size) continue;
    // The last few, with NaN for those that are not there.
    T rest[kSumLanes];
    std::fill(rest, rest + kSumLanes, std::numeric_limits<T>::quiet_NaN());
    std::copy(from + whole, from + size, rest);
    AddTileWithCare(rest, kSumLanes, mask_bound, s);
    s.nan -= kSumLanes - (size - whole);
  }
  for (int half = 0; half < 2; ++half) {
    _mm512_storeu_pd(&moments.sums[static_cast<std::size_t>(half * 8)], s.sums[half]);
    _mm512_storeu_pd(&moments.squares[static_cast<std::size_t>(half * 8)], s.squares[half]);
  }
  double least[8], most[8];
  _mm512_storeu_pd(least, s.min);
  _mm512_storeu_pd(most, s.max);
  for (int lane = 0; lane < 8; ++lane) {
    moments.min = std::min(moments.min, least[lane]);
    moments.max = std::max(moments.max, most[lane]);
  }
  moments.nan += s.nan;
  moments.inf += s.inf;
  moments.masked += s.masked;
}

// SplitMix64 of eight indices; see value_kernels.cc.
PARITRACE_INLINE_AVX512 __m512i Times(__m512i z, std::uint64_t by) {
  return _mm512_mullo_epi64(z, _mm512_set1_epi64(static_cast<std::int64_t>(by)));
}
PARITRACE_INLINE_AVX512 __m512i Mix(__m512i index) {
  __m512i z = _mm512_add_epi64(Times(index, 0x9e3779b97f4a7c15ull), _mm512_set1_epi64(0x7061726974726163));
  z = Times(_mm512_xor_si512(z, _mm512_maskz_srli_epi64(kAll8, z, 30)), 0xbf58476d1ce4e5b9ull);
  z = Times(_mm512_xor_si512(z, _mm512_maskz_srli_epi64(kAll8, z, 27)), 0x94d049bb133111ebull);
  return _mm512_xor_si512(z, _mm512_maskz_srli_epi64(kAll8, z, 31));
}

// What eight blocks' hashes ask for.
struct Hashes {
  alignas(64) std::uint64_t all[8];

  // Of the 16 bits that a hash has: the lower eight are signs, the next three the turn.
  [[nodiscard]] __mmask8 Signs(std::int64_t block, int hash) const { return Byte(block, 2 * hash); }
  [[nodiscard]] unsigned Turn(std::int64_t block, int hash) const { return Byte(block, 2 * hash + 1) & 7u; }

 private:
  [[nodiscard]] unsigned char Byte(std::int64_t block, int at) const {
    return reinterpret_cast<const unsigned char*>(all)[8 * block + at];  // x86 is little-endian
  }
};

// Lane l takes lane l - turn.
struct TurnTable {
  alignas(64) std::int64_t from[8][8];
};
constexpr TurnTable kTurns = [] {
  TurnTable table{};
  for (int turn = 0; turn < 8; ++turn) {
    for (int lane = 0; lane < 8; ++lane) table.from[turn][lane] = (lane - turn) & 7;
  }
  return table;
}();

// block: the first of them.
PARITRACE_INLINE_AVX512 Hashes HashesFrom(std::uint64_t block) {
  const __m512i mixed = Mix(
      _mm512_add_epi64(_mm512_set1_epi64(static_cast<std::int64_t>(block)), _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0)));
  Hashes hashes;
  _mm512_store_si512(hashes.all, mixed);
  return hashes;
}

PARITRACE_INLINE_AVX512 __m512d Turned(__m512d values, const Hashes& hashes, std::int64_t block, int hash) {
  const __m512i from = _mm512_load_si512(kTurns.from[hashes.Turn(block, hash)]);
  const __m512d turned = _mm512_maskz_permutexvar_pd(kAll8, from, values);
  return _mm512_mask_xor_pd(turned, hashes.Signs(block, hash), turned, _mm512_set1_pd(-0.0));
}

// The block whose lane 0 is column `begin`; lanes that the stretch does not reach are 0, and not read.
template <typename T>
PARITRACE_INLINE_AVX512 __m512d Block(const T* values, std::int64_t column, std::int64_t end, std::int64_t begin) {
  if (begin >= column && begin + 8 <= end) return Load8(values + (begin - column));
  T lanes[8] = {};
  const std::int64_t from = std::max(begin, column), to = std::min(begin + 8, end);
  std::copy(values + (from - column), values + (to - column), lanes + (from - begin));
  return Load8(lanes);
}

PARITRACE_INLINE_AVX512 double Total(__m512d energy) {
  double lanes[8], sum = 0;
  _mm512_storeu_pd(lanes, energy);
  for (const double lane : lanes) sum += lane;
  return sum;
}

// kCareful: values may be masked or not finite. Without, the buckets are left as they are where the sum is not finite.
// kOneSlot: as is usual; the sums then stay in registers.
template <bool kCareful, bool kOneSlot, typename T>
PARITRACE_TARGET_AVX512 double AddRow(const T* values, std::int64_t column, std::int64_t count, double mask_bound,
                                      std::uint64_t block, std::int64_t width, double* buckets) {
  static_assert(kCareful || kOneSlot);
  const std::int64_t end = column + count, last = (end + 7) / 8;
  const auto slots = static_cast<std::uint64_t>(width / 8);
  const __m512d bound = _mm512_set1_pd(mask_bound);
  __m512d energy = _mm512_setzero_pd();
  __m512d sums[4] = {_mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd()};
  if constexpr (kOneSlot) {
    for (int h = 0; h < 4; ++h) sums[h] = _mm512_loadu_pd(buckets + h * 8);
  }
  for (std::int64_t first = column / 8; first < last; first += 8) {
    const Hashes hashes = HashesFrom(block + static_cast<std::uint64_t>(first));
    const std::int64_t blocks = std::min<std::int64_t>(8, last - first);
    for (std::int64_t b = 0; b < blocks; ++b) {
      __m512d value = Block(values, column, end, (first + b) * 8);
      if constexpr (kCareful) {
        const __mmask8 dropped =
            _mm512_fpclass_pd_mask(value, kNotFinite) | _mm512_cmp_pd_mask(value, bound, _CMP_LE_OQ);
        value = _mm512_maskz_mov_pd(static_cast<__mmask8>(~dropped), value);
      }
      energy = AddSquare(values, value, energy);
      for (int h = 0; h < 4; ++h) {
        const __m512d turned = Turned(value, hashes, b, h);
        if constexpr (kOneSlot) {
          sums[h] = _mm512_add_pd(sums[h], turned);
        } else {
          const std::uint64_t bits = hashes.all[b] >> (16 * h + 11) & 31;
          double* const slot = buckets + h * width + static_cast<std::int64_t>(bits * slots >> 5) * 8;
          _mm512_storeu_pd(slot, _mm512_add_pd(_mm512_loadu_pd(slot), turned));
        }
      }
    }
  }
  const double total = Total(energy);
  if constexpr (kOneSlot) {
    if (!kCareful && !std::isfinite(total)) return total;
    for (int h = 0; h < 4; ++h) _mm512_storeu_pd(buckets + h * 8, sums[h]);
  }
  return total;
}

template <typename T>
double AddRowOf(const T* values, std::int64_t column, std::int64_t count, double mask_bound, std::uint64_t block,
                std::int64_t width, double* buckets) {
  if (width != 8) return AddRow<true, false>(values, column, count, mask_bound, block, width, buckets);
  if (std::isnan(mask_bound)) {
    const double total = AddRow<false, true>(values, column, count, mask_bound, block, width, buckets);
    if (std::isfinite(total)) return total;
  }
  return AddRow<true, true>(values, column, count, mask_bound, block, width, buckets);
}

}  // namespace

void AddMomentsAvx512(const float* values, std::int64_t count, double mask_bound, Moments& moments) {
  AddAll(values, count, mask_bound, moments);
}
void AddMomentsAvx512(const double* values, std::int64_t count, double mask_bound, Moments& moments) {
  AddAll(values, count, mask_bound, moments);
}

double AddRowAvx512(const float* values, std::int64_t column, std::int64_t count, double mask_bound,
                    std::uint64_t block, std::int64_t width, double* buckets) {
  return AddRowOf(values, column, count, mask_bound, block, width, buckets);
}
double AddRowAvx512(const double* values, std::int64_t column, std::int64_t count, double mask_bound,
                    std::uint64_t block, std::int64_t width, double* buckets) {
  return AddRowOf(values, column, count, mask_bound, block, width, buckets);
}

#else

namespace {
[[noreturn]] void Unreachable() { throw InternalError("no AVX-512 on this CPU"); }
}  // namespace

void AddMomentsAvx512(const float*, std::int64_t, double, Moments&) { Unreachable(); }
void AddMomentsAvx512(const double*, std::int64_t, double, Moments&) { Unreachable(); }
double AddRowAvx512(const float*, std::int64_t, std::int64_t, double, std::uint64_t, std::int64_t, double*) {
  Unreachable();
}
double AddRowAvx512(const double*, std::int64_t, std::int64_t, double, std::uint64_t, std::int64_t, double*) {
  Unreachable();
}

#endif

}  // namespace paritrace
