// The inner loops of `diff --all-stats`: all that is summed over a tile of values while it lies in the first-level cache.
// Kept apart from tile_pass.h, which knows layouts and types, so that a kernel is only arithmetic.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace paritrace {

// bins[k + 128]: pairs whose difference has an exponent k above the reference's, floor(log2|r-s|) - floor(log2|r|), where k
// is held between -127 and 127. bins[0]: equal pairs, and those closer than that or than 2^-126 altogether.
// A reference below 2^least_exponent, zero among them, counts as that: the smallest normal value of the type whose units
// are counted, below which values lie no closer together.
struct ExponentSums {
  std::array<std::int64_t, 256> bins{};
  std::int64_t sign_flips = 0;  // neither is zero nor subnormal, and the signs differ
  double max_scaled = 0;        // the largest |r-s| / 2^floor(log2|r|)

  void Merge(const ExponentSums& other);
};

// Four rows share the loads and stores of the channels' sums; 512 columns of them fill half of a first-level cache.
constexpr std::int64_t kTileRows = 4;
constexpr std::int64_t kTileColumns = 512;
// A multiple of every vector.
constexpr std::int64_t kTileStep = 64;

// Values of a later tile, as they are stored: kernels ask for their memory meanwhile.
struct Upcoming {
  const std::byte* first = nullptr;
  std::int64_t row_bytes = 0, value_bytes = 0;  // from row to row, from value to value

  [[nodiscard]] const std::byte* At(std::int64_t row, std::int64_t column) const {
    return first + row * row_bytes + column * value_bytes;
  }
};

struct Tile {
  // [rows, columns]; a_stride and b_stride: values from row to row. Each row goes on with zeros to a multiple of kTileStep.
  const float *a = nullptr, *b = nullptr;
  std::int64_t a_stride = 0, b_stride = 0;
  std::int64_t rows = 0, columns = 0;  // at most kTileRows and kTileColumns
  Upcoming a_later, b_later;
};

// Exponents that are found but not yet counted: many at once are counted faster.
struct PendingExponents {
  static constexpr std::int64_t kCapacity = 4096;  // a multiple of what every vector unit counts in one go
  static constexpr int kUnknown = -128;
  alignas(64) std::array<std::int8_t, kCapacity> bytes;  // -128: equal
  std::int64_t count = 0;
  int window = kUnknown;  // the first of the neighbouring numbers that are met most often
};

// Sums over one row of a tile, in parts: one for each lane of the widest vector.
struct alignas(64) RowLanes {
  static constexpr int kLanes = 8;
  std::array<double, kLanes> max_abs{};  // max |a-b|
  std::array<double, kLanes> aa{};       // a*a
  std::array<double, kLanes> bb{};       // b*b
  std::array<double, kLanes> ab{};       // a*b
  std::array<double, kLanes> dd{};       // (a-b)^2
};

// What a kernel adds to.
struct TileSums {
  std::array<RowLanes, kTileRows> rows;
  alignas(64) std::array<double, RowLanes::kLanes> abs{};  // sum |a-b| over all rows
  std::array<std::int64_t, kTileRows> equal{};             // pairs a == b
  ExponentSums exponents;  // of differences as f32 rounds them; without the pending ones
  PendingExponents pending;
};

struct TileKernel {
  // Adds a tile to the sums, and its columns to error[0, columns) ((a-b)^2) and energy[0, columns) (a*a), where there is
  // room up to a multiple of kTileStep; what stands there stays as it is.
  // False, and nothing changed, if a value is not finite or a difference overflows f32.
  // Precision: every value is widened to f64 first, as in RunKernel.
  bool (*add)(const Tile& tile, int least_exponent, TileSums& sums, double* error, double* energy) = nullptr;
  // Counts the pending exponents; to be called after the last tile.
  void (*count_pending)(TileSums& sums) = nullptr;
};

[[nodiscard]] TileKernel FindTileKernel();

// values[0, count) as f32; they need no alignment.
using WidenKernel = void (*)(const void* values, std::int64_t count, float* out);

// For f16 and bf16; nullptr for all others.
[[nodiscard]] WidenKernel FindWidenKernel(DType dtype);

// One pair, by the definition: what the kernels are tested against, and the way for f64.
//   difference: reference - subject, rounded to f32 if both are values of f32 and that does not overflow
void AddExponent(double reference, double subject, double difference, int least_exponent, ExponentSums& sums);

}  // namespace paritrace
