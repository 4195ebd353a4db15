#include "graph/weight_reading.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/decode.h"
#include "graph/arithmetic.h"

namespace paritrace {
namespace {

// Where the parts of a block lie, in bytes. run: bytes whose low nibbles, and then whose high ones, stand side by side.
struct BlockFields {
  DType dtype;
  int scale, minimum;  // f16; -1: none
  int codes, code_bytes;
  int run;           // 0: no nibbles, or in an order of their own
  std::uint8_t one;  // a byte of codes that are all 1
  bool nibbles;
};

constexpr std::array kFields = {
    BlockFields{DType::kQ4_0, 0, -1, 2, 16, 16, 0x11, true},
    BlockFields{DType::kQ4_1, 0, 2, 4, 16, 16, 0x11, true},
    BlockFields{DType::kQ5_0, 0, -1, 6, 16, 16, 0x11, true},
    BlockFields{DType::kQ5_1, 0, 2, 8, 16, 16, 0x11, true},
    BlockFields{DType::kQ8_0, 0, -1, 2, 32, 0, 0x01, false},
    BlockFields{DType::kQ2_K, 80, 82, 16, 64, 0, 0x55, false},
    BlockFields{DType::kQ4_K, 0, 2, 16, 128, 32, 0x11, true},
    BlockFields{DType::kQ5_K, 0, 2, 48, 128, 32, 0x11, true},
    BlockFields{DType::kQ6_K, 208, -1, 0, 128, 0, 0x11, true},
    BlockFields{DType::kTQ2_0, 64, -1, 0, 64, 0, 0x55, false},
    BlockFields{DType::kTQ1_0, 52, -1, 0, 0, 0, 0, false},
    BlockFields{DType::kIQ4_NL, 0, -1, 2, 16, 16, 0, true},
    BlockFields{DType::kIQ4_XS, 0, -1, 8, 128, 16, 0, true},
    BlockFields{DType::kMXFP4, -1, -1, 1, 16, 16, 0, true},
    BlockFields{DType::kNVFP4, -1, -1, 4, 32, 8, 0, true},
};

const BlockFields* FieldsOf(DType dtype) {
  const auto* found = std::ranges::find(kFields, dtype, &BlockFields::dtype);
  return found == kFields.end() ? nullptr : found;
}

using Bytes = std::vector<std::byte>;

std::vector<float> Decode(const TensorView& like, const Bytes& bytes, std::int64_t values) {
  TensorView view = like;
  view.shape = {values};
  view.bytes = bytes;
  std::vector<float> out(static_cast<std::size_t>(values));
  DecodeF32(view, 0, values, out.data());
  return out;
}

// The bytes that, read rightly, give what a wrong order of nibbles gives.
void Reorder(const BlockFields& fields, Nibbles order, std::byte* block) {
  const auto byte = [](std::byte b) { return std::to_integer<unsigned>(b); };
  if (order != Nibbles::kPaired) {
    for (int i = 0; i < fields.code_bytes; ++i) {
      std::byte& b = block[fields.codes + i];
      b = static_cast<std::byte>((byte(b) >> 4 | byte(b) << 4) & 0xff);
    }
  }
  if (order == Nibbles::kSwapped || fields.run == 0) return;
  std::array<unsigned, 64> paired{};
  for (int start = fields.codes; start < fields.codes + fields.code_bytes; start += fields.run) {
    for (int i = 0; i < fields.run; ++i) {
      paired[static_cast<std::size_t>(2 * i)] = byte(block[start + i]) & 15;
      paired[static_cast<std::size_t>(2 * i + 1)] = byte(block[start + i]) >> 4;
    }
    for (int i = 0; i < fields.run; ++i)
      block[start + i] = static_cast<std::byte>(paired[static_cast<std::size_t>(i)] |
                                                paired[static_cast<std::size_t>(i + fields.run)] << 4);
  }
}

// The index among all blocks of the tensor that block `block` of row `row` takes its scale from.
std::int64_t ScaleSource(ScaleFrom from, std::int64_t row, std::int64_t block, std::int64_t rows, std::int64_t blocks) {
  const std::int64_t own = row * blocks + block;
  switch (from) {
    case ScaleFrom::kOwn: return own;
    case ScaleFrom::kNext: return std::min(own + 1, rows * blocks - 1);
    case ScaleFrom::kPrevious: return std::max<std::int64_t>(own - 1, 0);
    case ScaleFrom::kFirstOfTwo: return own - block % 2;
    case ScaleFrom::kFirstOfRow: return row * blocks;
    case ScaleFrom::kTransposed: return block * rows + row;
  }
  return own;
}

std::uint16_t U16(const std::byte* at) {
  std::uint16_t value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// What a block's scale, taken wrongly, is of the right one.
double ScaleRatio(ScaleAs as, std::uint16_t bits) {
  const double right = HalfToFloat(bits);
  if (as == ScaleAs::kF16 || right == 0) return 1;
  if (as == ScaleAs::kOne) return 1 / right;
  if (as == ScaleAs::kBF16) return BFloatToFloat(bits) / right;
  return HalfToFloat(static_cast<std::uint16_t>(bits >> 8 | bits << 8)) / right;
}

void ReadBlockRow(const TensorView& tensor, const BlockFields& fields, const WeightReading& reading, std::int64_t row,
                  float* out) {
  const DTypeInfo& info = Info(tensor.dtype);
  const std::int64_t columns = tensor.shape[1], blocks = columns / info.block_elements;
  const auto size = static_cast<std::size_t>(info.block_bytes);
  const std::byte* own = tensor.bytes.data() + static_cast<std::size_t>(row * blocks) * size;
  Bytes bytes(own, own + static_cast<std::size_t>(blocks) * size);
  std::vector<double> ratio(static_cast<std::size_t>(blocks), 1.0);
  for (std::int64_t b = 0; b < blocks; ++b) {
    std::byte* block = bytes.data() + static_cast<std::size_t>(b) * size;
    if (reading.nibbles != Nibbles::kAsStored && fields.nibbles) Reorder(fields, reading.nibbles, block);
    if (fields.scale < 0) continue;
    const std::int64_t source = ScaleSource(reading.scale_from, row, b, tensor.shape[0], blocks);
    const std::byte* from = tensor.bytes.data() + static_cast<std::size_t>(source) * size;
    std::memcpy(block + fields.scale, from + fields.scale, 2);
    if (fields.minimum >= 0) std::memcpy(block + fields.minimum, from + fields.minimum, 2);
    ratio[static_cast<std::size_t>(b)] = ScaleRatio(reading.scale_as, U16(block + fields.scale));
  }
  std::vector<float> values = Decode(tensor, bytes, columns);
  const bool parts =
      reading.shift != 0 || reading.offset_factor != 1 || reading.scale_as != ScaleAs::kF16 || reading.unsigned_codes;
  if (parts) {
    Bytes zeros = bytes, ones = bytes;
    for (std::int64_t b = 0; b < blocks; ++b) {
      const std::size_t at = static_cast<std::size_t>(b) * size + static_cast<std::size_t>(fields.codes);
      std::memset(zeros.data() + at, 0, static_cast<std::size_t>(fields.code_bytes));
      std::memset(ones.data() + at, fields.one, static_cast<std::size_t>(fields.code_bytes));
    }
    // A fifth or sixth bit of a code lies elsewhere and stands in both: their difference is the scale all the same.
    const std::vector<float> zero = Decode(tensor, zeros, columns), one = Decode(tensor, ones, columns);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto b = i / static_cast<std::size_t>(info.block_elements);
      const double unit = static_cast<double>(one[i]) - zero[i];
      const double offset = fields.minimum >= 0 ? zero[i] : 0.0;
      double scaled = (values[i] - offset) * ratio[b];
      if (reading.unsigned_codes && values[i] * unit < 0) scaled += 256 * unit * ratio[b];
      values[i] = static_cast<float>(scaled + reading.shift * unit * ratio[b] + offset * reading.offset_factor);
    }
  }
  for (const BlockFactor& single : reading.blocks) {
    if (single.row != row || single.block >= blocks) continue;
    for (std::int64_t i = 0; i < info.block_elements; ++i) {
      float& value = values[static_cast<std::size_t>(single.block * info.block_elements + i)];
      value = static_cast<float>(value * single.factor);
    }
  }
  std::ranges::copy(values, out);
}

// Codes -1, 0 and 1; their scale stands beside the matrix.
void ReadTernaryRow(const TensorView& tensor, const WeightReading& reading, std::int64_t row, float* out) {
  const std::int64_t quarter = tensor.shape[0] / 4, columns = tensor.shape[1];
  const std::int64_t from = reading.nibbles == Nibbles::kNeighbourRows ? row % 4 * quarter + row / 4 : row;
  DecodeF32(tensor, from * columns, columns, out);
  for (std::int64_t i = 0; i < columns; ++i) out[i] += static_cast<float>(reading.shift);
}

double Largest(std::span<const float> values) {
  double largest = 0;
  for (const float x : values) largest = std::max(largest, std::fabs(static_cast<double>(x)));
  return largest;
}

void ToCodes(CodesOnly codes, double largest, std::span<float> row) {
  if (largest == 0) return;
  const bool int8 = codes == CodesOnly::kInt8Row || codes == CodesOnly::kInt8Tensor;
  const double inverse = (int8 ? 127.0 : 448.0) / largest;
  for (float& x : row) {
    const double scaled = x * inverse;
    x = static_cast<float>(int8 ? std::nearbyint(scaled) : RoundToE4M3(scaled));
  }
}

}  // namespace

// Three stored bits of mantissa down to 2^-6, then steps of 2^-9.
double RoundToE4M3(double x) {
  const double magnitude = std::fabs(x);
  if (!(magnitude > 0)) return x;
  const double step = std::ldexp(1.0, std::max(std::ilogb(magnitude), -6) - 3);
  return std::copysign(std::min(std::nearbyint(magnitude / step) * step, 448.0), x);
}

ReadableParts PartsOf(DType dtype) {
  const BlockFields* fields = FieldsOf(dtype);
  if (fields == nullptr) return {};
  return {.nibbles = fields->nibbles,
          .pairs = fields->nibbles && fields->run > 0,
          .codes = fields->one != 0,
          .offset = fields->minimum >= 0,
          .scale = fields->scale >= 0,
          .signed_bytes = dtype == DType::kQ8_0};
}

std::vector<float> ReadRows(const TensorView& tensor, const WeightReading& reading, std::int64_t first,
                            std::int64_t count) {
  const std::int64_t columns = tensor.shape.back();
  TensorView view = tensor;
  if (view.shape.size() == 1) view.shape = {1, columns};
  if (reading.bytes_as && !IsBlockQuantised(view.dtype) &&
      Info(*reading.bytes_as).block_bytes == Info(view.dtype).block_bytes)
    view.dtype = *reading.bytes_as;
  std::vector<float> values(static_cast<std::size_t>(count * columns));
  const BlockFields* fields = FieldsOf(view.dtype);
  for (std::int64_t r = 0; r < count; ++r) {
    float* row = values.data() + r * columns;
    if (fields != nullptr) {
      ReadBlockRow(view, *fields, reading, first + r, row);
    } else if (view.dtype == DType::kTernaryRows) {
      ReadTernaryRow(view, reading, first + r, row);
    } else {
      DecodeF32(view, (first + r) * columns, columns, row);
    }
    if (reading.codes == CodesOnly::kInt8Row || reading.codes == CodesOnly::kE4M3Row) {
      const std::span<float> span(row, static_cast<std::size_t>(columns));
      ToCodes(reading.codes, Largest(span), span);
    }
  }
  if (reading.codes == CodesOnly::kInt8Tensor || reading.codes == CodesOnly::kE4M3Tensor) {
    double largest = 0;
    std::vector<float> row(static_cast<std::size_t>(columns));
    for (std::int64_t r = 0; r < view.shape[0]; ++r) {
      DecodeF32(view, r * columns, columns, row.data());
      largest = std::max(largest, Largest(row));
    }
    ToCodes(reading.codes, largest, values);
  }
  return values;
}

}  // namespace paritrace
