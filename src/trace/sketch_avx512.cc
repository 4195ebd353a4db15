#include "trace/sketch_avx512.h"

#include "core/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace paritrace {

#if defined(__x86_64__)
namespace {

#define PARITRACE_TARGET_AVX512 __attribute__((target("avx512f,avx512dq")))

// kSource[r]: lane l takes lane l - r.
alignas(64) constexpr std::int64_t kSource[8][8] = {
    {0, 1, 2, 3, 4, 5, 6, 7}, {7, 0, 1, 2, 3, 4, 5, 6}, {6, 7, 0, 1, 2, 3, 4, 5}, {5, 6, 7, 0, 1, 2, 3, 4},
    {4, 5, 6, 7, 0, 1, 2, 3}, {3, 4, 5, 6, 7, 0, 1, 2}, {2, 3, 4, 5, 6, 7, 0, 1}, {1, 2, 3, 4, 5, 6, 7, 0}};

PARITRACE_TARGET_AVX512 inline __attribute__((always_inline)) __m512d AddTurned(__m512d sum, __m512d values,
                                                                                std::uint64_t bits) {
  // Masked, with all lanes: g++ 12 warns of what the plain one leaves undefined.
  const __m512d turned = _mm512_maskz_permutexvar_pd(0xff, _mm512_load_si512(kSource[bits >> 8 & 7]), values);
  return _mm512_add_pd(sum, _mm512_mask_xor_pd(turned, static_cast<__mmask8>(bits), turned, _mm512_set1_pd(-0.0)));
}

std::uint64_t Mix(std::uint64_t index) {
  std::uint64_t z = index * 0x9e3779b97f4a7c15ull + 0x7061726974726163ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

}  // namespace

PARITRACE_TARGET_AVX512 void AddToSketchAvx512(const double* values, std::int64_t column, std::int64_t count,
                                               std::uint64_t block, std::int64_t width, double* buckets) {
  const std::int64_t end = column + count;
  const auto slots = static_cast<std::uint64_t>(width / 8);
  // Where there is one slot, as is usual, the sums stay in registers.
  __m512d sums[4] = {_mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd()};
  if (slots == 1) {
    for (int h = 0; h < 4; ++h) sums[h] = _mm512_loadu_pd(buckets + h * 8);
  }
  for (std::int64_t b = column / 8; b * 8 < end; ++b) {
    // Lanes that the stretch does not reach are 0, and not read.
    const std::int64_t before = column > b * 8 ? column - b * 8 : 0, after = end < b * 8 + 8 ? b * 8 + 8 - end : 0;
    const auto there = static_cast<__mmask8>((0xff << before) & (0xff >> after));
    const __m512d lanes = _mm512_maskz_loadu_pd(there, values + (b * 8 - column));
    const std::uint64_t hash = Mix(block + static_cast<std::uint64_t>(b));
    if (slots == 1) {
      for (int h = 0; h < 4; ++h) sums[h] = AddTurned(sums[h], lanes, hash >> (16 * h));
      continue;
    }
    for (int h = 0; h < 4; ++h) {
      const std::uint64_t bits = hash >> (16 * h);
      double* const slot = buckets + h * width + static_cast<std::int64_t>((bits >> 11 & 31) * slots >> 5) * 8;
      _mm512_storeu_pd(slot, AddTurned(_mm512_loadu_pd(slot), lanes, bits));
    }
  }
  if (slots == 1) {
    for (int h = 0; h < 4; ++h) _mm512_storeu_pd(buckets + h * 8, sums[h]);
  }
}

#else

void AddToSketchAvx512(const double*, std::int64_t, std::int64_t, std::uint64_t, std::int64_t, double*) {
  throw InternalError("no AVX-512 on this CPU");
}

#endif

}  // namespace paritrace
