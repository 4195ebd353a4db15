#include "trace/value_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/cpu_target.h"
#include "trace/row_kernel.h"
#include "trace/value_kernels_avx512.h"

namespace paritrace {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// As wide as AVX2 has them: g++ takes wider ones apart value by value.
constexpr std::int64_t kWidth = 4;
using F4 = float __attribute__((vector_size(16)));
using D4 = double __attribute__((vector_size(32)));
using I4 = std::int64_t __attribute__((vector_size(32)));
using U4 = std::uint64_t __attribute__((vector_size(32)));

PARITRACE_ALWAYS_INLINE D4 Load(const float* from) {
  F4 values;
  std::memcpy(&values, from, sizeof values);
  return __builtin_convertvector(values, D4);
}
PARITRACE_ALWAYS_INLINE D4 Load(const double* from) {
  D4 values;
  std::memcpy(&values, from, sizeof values);
  return values;
}
PARITRACE_ALWAYS_INLINE void Store(D4 values, double* to) { std::memcpy(to, &values, sizeof values); }
PARITRACE_ALWAYS_INLINE D4 Masked(D4 value, I4 mask) {
  return reinterpret_cast<D4>(reinterpret_cast<I4>(value) & mask);
}

constexpr std::int64_t kParts = kSumLanes / kWidth;  // vectors that the partial sums are held in

struct Lanes {
  D4 sums[kParts], squares[kParts];
  D4 min, max;
  I4 nan, inf, masked;  // minus their number
};

PARITRACE_ALWAYS_INLINE void Step(D4 value, D4 bound, D4& sum, D4& squares, Lanes& lanes) {
  const I4 is_masked = value <= bound, is_nan = value != value;
  const I4 kept = (value - value == 0.0) & ~is_masked;
  const D4 rest = Masked(value, kept);
  sum += rest;
  squares += rest * rest;
  // What is not kept is compared as 0 with itself, and changes nothing.
  const D4 low = Masked(lanes.min, ~kept), high = Masked(lanes.max, ~kept);
  const D4 for_min = reinterpret_cast<D4>(reinterpret_cast<I4>(rest) | reinterpret_cast<I4>(low));
  const D4 for_max = reinterpret_cast<D4>(reinterpret_cast<I4>(rest) | reinterpret_cast<I4>(high));
  lanes.min = for_min < lanes.min ? for_min : lanes.min;
  lanes.max = for_max > lanes.max ? for_max : lanes.max;
  lanes.nan += is_nan;
  lanes.masked += is_masked;
  lanes.inf += ~(kept | is_nan | is_masked);
}

// All values are kept.
PARITRACE_ALWAYS_INLINE void PlainStep(D4 value, D4& sum, D4& squares, Lanes& lanes) {
  sum += value;
  squares += value * value;
  lanes.min = value < lanes.min ? value : lanes.min;
  lanes.max = value > lanes.max ? value : lanes.max;
}

PARITRACE_ALWAYS_INLINE bool AreFinite(const D4* squares) {
  const D4 zeros = (squares[0] * 0.0 + squares[1] * 0.0) + (squares[2] * 0.0 + squares[3] * 0.0);
  return zeros[0] == 0 && zeros[1] == 0 && zeros[2] == 0 && zeros[3] == 0;
}

template <typename T>
PARITRACE_ALWAYS_INLINE void AddAll(const T* values, std::int64_t count, double mask_bound, Moments& moments) {
  constexpr std::int64_t kTile = 2048;
  Lanes lanes;
  std::memcpy(lanes.sums, moments.sums.data(), sizeof lanes.sums);
  std::memcpy(lanes.squares, moments.squares.data(), sizeof lanes.squares);
  lanes.min = D4{} + moments.min;
  lanes.max = D4{} + moments.max;
  lanes.nan = lanes.inf = lanes.masked = I4{};
  const D4 bound = D4{} + mask_bound;
  for (std::int64_t begin = 0; begin < count; begin += kTile) {
    const T* const from = values + begin;
    const std::int64_t size = std::min(kTile, count - begin), whole = size / kSumLanes * kSumLanes;
    const Lanes before = lanes;
    if (std::isnan(mask_bound)) {
      for (std::int64_t i = 0; i < whole; i += kSumLanes) {
        for (std::int64_t p = 0; p < kParts; ++p)
          PlainStep(Load(from + i + p * kWidth), lanes.sums[p], lanes.squares[p], lanes);
      }
    }
    // One that is not finite makes a sum of squares not finite, too: then again, looking at each.
    if (!std::isnan(mask_bound) || !AreFinite(lanes.squares)) {
      lanes = before;
      for (std::int64_t i = 0; i < whole; i += kSumLanes) {
        for (std::int64_t p = 0; p < kParts; ++p)
          Step(Load(from + i + p * kWidth), bound, lanes.sums[p], lanes.squares[p], lanes);
      }
    }
    if (whole == size) continue;
    // The last few, with NaN for those that are not there.
    T rest[kSumLanes];
    std::fill(rest, rest + kSumLanes, std::numeric_limits<T>::quiet_NaN());
    std::copy(from + whole, from + size, rest);
    for (std::int64_t p = 0; p < kParts; ++p)
      Step(Load(rest + p * kWidth), bound, lanes.sums[p], lanes.squares[p], lanes);
    moments.nan -= kSumLanes - (size - whole);
  }
  std::memcpy(moments.sums.data(), lanes.sums, sizeof lanes.sums);
  std::memcpy(moments.squares.data(), lanes.squares, sizeof lanes.squares);
  for (int i = 0; i < kWidth; ++i) {
    moments.min = std::min(moments.min, lanes.min[i]);
    moments.max = std::max(moments.max, lanes.max[i]);
    moments.nan -= lanes.nan[i];
    moments.inf -= lanes.inf[i];
    moments.masked -= lanes.masked[i];
  }
}

template <typename T>
PARITRACE_TARGET_AVX2 void AddAllAvx2(const T* values, std::int64_t count, double mask_bound, Moments& moments) {
  AddAll(values, count, mask_bound, moments);
}

template <typename T>
void Add(const T* values, std::int64_t count, double mask_bound, Moments& moments) {
  switch (ActiveCpuTarget()) {
    case CpuTarget::kAvx512: return AddMomentsAvx512(values, count, mask_bound, moments);
    case CpuTarget::kAvx2: return AddAllAvx2(values, count, mask_bound, moments);
    case CpuTarget::kBaseline: break;
  }
  AddAll(values, count, mask_bound, moments);
}

// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): every output bit depends on every bit of the index.
constexpr std::uint64_t kSeed = 0x7061726974726163ull;
PARITRACE_ALWAYS_INLINE U4 Mix(U4 index) {
  U4 z = index * 0x9e3779b97f4a7c15ull + kSeed;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

constexpr int kHashes = 4;
constexpr std::int64_t kBlocks = 64;  // at once: each value twice, in 8 KiB

// Adds the block's values to eight sums, turned by the hash's rotation and with its signs.
//   twice  [16] the block, two times in a row
PARITRACE_ALWAYS_INLINE void AddTurned(const double* twice, std::uint64_t bits, D4* sums) {
  const U4 all = U4{} + bits, top = U4{} + (std::uint64_t{1} << 63);
  const U4 low = {63, 62, 61, 60}, high = {59, 58, 57, 56};
  const double* const from = twice + ((8 - (bits >> 8 & 7)) & 7);
  sums[0] += reinterpret_cast<D4>(reinterpret_cast<U4>(Load(from)) ^ ((all << low) & top));
  sums[1] += reinterpret_cast<D4>(reinterpret_cast<U4>(Load(from + kWidth)) ^ ((all << high) & top));
}

// The block whose lane 0 is column `begin`: zeros where it reaches beyond [column, end) and in place of what is not kept.
// Adds its squares to the sums of its lanes.
template <typename T>
PARITRACE_ALWAYS_INLINE void Stage(const T* values, std::int64_t column, std::int64_t end, std::int64_t begin, D4 bound,
                                   double* twice, D4* squares) {
  T lanes[kBlockLanes] = {};
  const T* from = lanes;
  if (begin >= column && begin + kBlockLanes <= end) {
    from = values + (begin - column);
  } else {
    const std::int64_t first = std::max(begin, column), last = std::min(begin + kBlockLanes, end);
    std::copy(values + (first - column), values + (last - column), lanes + (first - begin));
  }
  for (std::int64_t half = 0; half < 2; ++half) {
    const D4 value = Load(from + half * kWidth);
    const D4 rest = Masked(value, (value - value == 0.0) & ~(value <= bound));
    squares[half] += rest * rest;
    Store(rest, twice + half * kWidth);
    Store(rest, twice + kBlockLanes + half * kWidth);
  }
}

template <typename T>
PARITRACE_ALWAYS_INLINE double Sketch(const T* values, std::int64_t column, std::int64_t count, double mask_bound,
                                      std::uint64_t block, std::int64_t width, double* buckets) {
  alignas(64) double twice[kBlocks * 2 * kBlockLanes];
  alignas(64) std::uint64_t hashes[kBlocks];
  const std::int64_t end = column + count;
  const auto slots = static_cast<std::uint64_t>(width / kBlockLanes);
  const D4 bound = D4{} + mask_bound;
  D4 squares[2] = {};
  for (std::int64_t first = column / kBlockLanes; first * kBlockLanes < end; first += kBlocks) {
    const std::int64_t blocks = std::min(kBlocks, (end + kBlockLanes - 1) / kBlockLanes - first);
    for (std::int64_t b = 0; b < blocks; ++b)
      Stage(values, column, end, (first + b) * kBlockLanes, bound, twice + b * 2 * kBlockLanes, squares);
    for (std::int64_t b = 0; b < blocks; b += kWidth) {
      const U4 mixed = Mix(U4{0, 1, 2, 3} + (block + static_cast<std::uint64_t>(first + b)));
      std::memcpy(hashes + b, &mixed, sizeof mixed);
    }
    if (slots == 1) {  // the usual case: all sums stay in registers
      D4 sums[2 * kHashes];
      std::memcpy(sums, buckets, sizeof sums);
      for (std::int64_t b = 0; b < blocks; ++b) {
        const double* const from = twice + b * 2 * kBlockLanes;
        AddTurned(from, hashes[b], sums);
        AddTurned(from, hashes[b] >> 16, sums + 2);
        AddTurned(from, hashes[b] >> 32, sums + 4);
        AddTurned(from, hashes[b] >> 48, sums + 6);
      }
      std::memcpy(buckets, sums, sizeof sums);
      continue;
    }
    for (std::int64_t b = 0; b < blocks; ++b) {
      for (int h = 0; h < kHashes; ++h) {
        const std::uint64_t bits = hashes[b] >> (16 * h);
        double* const slot =
            buckets + h * width + static_cast<std::int64_t>((bits >> 11 & 31) * slots >> 5) * kBlockLanes;
        D4 sums[2] = {Load(slot), Load(slot + kWidth)};
        AddTurned(twice + b * 2 * kBlockLanes, bits, sums);
        Store(sums[0], slot);
        Store(sums[1], slot + kWidth);
      }
    }
  }
  double lanes[kBlockLanes], sum = 0;
  std::memcpy(lanes, squares, sizeof lanes);
  for (const double lane : lanes) sum += lane;
  return sum;
}

template <typename T>
PARITRACE_TARGET_AVX2 double SketchAvx2(const T* values, std::int64_t column, std::int64_t count, double mask_bound,
                                        std::uint64_t block, std::int64_t width, double* buckets) {
  return Sketch(values, column, count, mask_bound, block, width, buckets);
}

template <typename T>
double AddRowAnywhere(const T* values, std::int64_t column, std::int64_t count, double mask_bound, std::uint64_t block,
                      std::int64_t width, double* buckets) {
  switch (ActiveCpuTarget()) {
    case CpuTarget::kAvx512: return AddRowAvx512(values, column, count, mask_bound, block, width, buckets);
    case CpuTarget::kAvx2: return SketchAvx2(values, column, count, mask_bound, block, width, buckets);
    case CpuTarget::kBaseline: break;
  }
  return Sketch(values, column, count, mask_bound, block, width, buckets);
}

double Total(const std::array<double, kSumLanes>& lanes) {
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

}  // namespace

Moments::Moments() : min(kInfinity), max(-kInfinity) {}
double Moments::Sum() const { return Total(sums); }
double Moments::Squares() const { return Total(squares); }

void Moments::Merge(const Moments& later) {
  for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += later.sums[i];
  for (std::size_t i = 0; i < squares.size(); ++i) squares[i] += later.squares[i];
  min = std::min(min, later.min);
  max = std::max(max, later.max);
  nan += later.nan;
  inf += later.inf;
  masked += later.masked;
}

void AddMoments(const float* values, std::int64_t count, double mask_bound, Moments& moments) {
  Add(values, count, mask_bound, moments);
}
void AddMoments(const double* values, std::int64_t count, double mask_bound, Moments& moments) {
  Add(values, count, mask_bound, moments);
}

double AddRow(const float* values, std::int64_t column, std::int64_t count, double mask_bound, std::uint64_t block,
              std::int64_t width, double* buckets) {
  return AddRowAnywhere(values, column, count, mask_bound, block, width, buckets);
}
double AddRow(const double* values, std::int64_t column, std::int64_t count, double mask_bound, std::uint64_t block,
              std::int64_t width, double* buckets) {
  return AddRowAnywhere(values, column, count, mask_bound, block, width, buckets);
}

}  // namespace paritrace
