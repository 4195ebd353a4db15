// A weight as an engine would have it that takes the stored bytes wrongly: nibbles in another order, another block's scale,
// codes around another zero, bytes of another type. A hypothesis carries one; no model does.
// Kept apart from core/decode.h, which knows only what is right.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/tensor.h"

namespace paritrace {

// kPaired: the two nibbles of a byte are neighbours in the row where the type has them half a run apart.
// kNeighbourRows: the four codes of a byte of packed ternary rows are neighbours where they are a quarter of the rows apart.
enum class Nibbles : std::uint8_t { kAsStored, kSwapped, kPaired, kPairedSwapped, kNeighbourRows };
// Which block's scale (and minimum) a block gets. kTransposed: the grid of scales is read column by column.
enum class ScaleFrom : std::uint8_t { kOwn, kNext, kPrevious, kFirstOfTwo, kFirstOfRow, kTransposed };
// What the two bytes of a scale are taken for. kOne: not multiplied at all.
enum class ScaleAs : std::uint8_t { kF16, kBF16, kOtherEndian, kOne };
// A float weight quantised with one scale a row or a tensor, and the scale lost on the way back.
enum class CodesOnly : std::uint8_t { kNone, kInt8Row, kInt8Tensor, kE4M3Row, kE4M3Tensor };

struct BlockFactor {
  std::int64_t row = 0, block = 0;
  double factor = 1;
};

struct WeightReading {
  Nibbles nibbles = Nibbles::kAsStored;
  double shift = 0;          // added to every code
  double offset_factor = 1;  // multiplies what a block adds to code times scale: its minimum, its zero
  ScaleFrom scale_from = ScaleFrom::kOwn;
  ScaleAs scale_as = ScaleAs::kF16;
  bool unsigned_codes = false;    // signed bytes taken as unsigned ones
  std::optional<DType> bytes_as;  // a scalar type of the same size
  CodesOnly codes = CodesOnly::kNone;
  std::vector<BlockFactor> blocks;  // single blocks times a factor, by row
};

// What of a reading has a meaning for a type; the rest leaves it as it is.
struct ReadableParts {
  bool nibbles = false, pairs = false, codes = false, offset = false, scale = false, signed_bytes = false;
};
[[nodiscard]] ReadableParts PartsOf(DType dtype);

// The nearest f8 e4m3 (the "fn" flavour: no infinities, 448 is the largest).
[[nodiscard]] double RoundToE4M3(double x);

// Rows [first, first + count) of a matrix [rows, columns], row-major. Errors: UsageError where the type has no decoder.
[[nodiscard]] std::vector<float> ReadRows(const TensorView& tensor, const WeightReading& reading, std::int64_t first,
                                          std::int64_t count);

}  // namespace paritrace
