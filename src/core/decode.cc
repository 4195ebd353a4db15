#include "core/decode.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>

#include <fmt/format.h>

#include "core/block_quant.h"
#include "core/cpu_target.h"
#include "core/error.h"
#include "core/parallel.h"

namespace paritrace {
namespace {

template <typename T>
PARITRACE_ALWAYS_INLINE T Load(const std::byte* at) {  // a tensor may start at any byte of its file
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

template <typename T>
struct Plain {
  using Stored = T;
  PARITRACE_ALWAYS_INLINE static T Value(T stored) { return stored; }
};

struct Half {
  using Stored = std::uint16_t;
  PARITRACE_ALWAYS_INLINE static float Value(std::uint16_t stored) { return HalfToFloat(stored); }
};

struct BFloat {
  using Stored = std::uint16_t;
  PARITRACE_ALWAYS_INLINE static float Value(std::uint16_t stored) { return BFloatToFloat(stored); }
};

struct Bool {
  using Stored = std::uint8_t;
  PARITRACE_ALWAYS_INLINE static float Value(std::uint8_t stored) { return stored != 0 ? 1 : 0; }
};

// The "fn" flavour of OCP's 8-bit formats, which torch and safetensors mean: no infinities, 448 is the largest value.
float DecodeE4M3(std::uint8_t stored) {
  const std::uint32_t sign = (stored & 0x80u) << 24, magnitude = stored & 0x7fu;
  if (magnitude == 0x7f) return std::bit_cast<float>(sign | 0x7fc00000u);
  // A half with the same mantissa has a bias of 15 where this has 7.
  const float scaled = HalfToFloat(static_cast<std::uint16_t>(magnitude << 7)) * 256.0f;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(scaled) | sign);
}

struct E4M3 {
  using Stored = std::uint8_t;
  PARITRACE_ALWAYS_INLINE static float Value(std::uint8_t stored) {
    static const std::array<float, 256> table = [] {
      std::array<float, 256> values{};
      for (int i = 0; i < 256; ++i) values[static_cast<std::size_t>(i)] = DecodeE4M3(static_cast<std::uint8_t>(i));
      return values;
    }();
    return table[stored];
  }
};

struct E5M2 {
  using Stored = std::uint8_t;
  PARITRACE_ALWAYS_INLINE static float Value(std::uint8_t stored) {
    return HalfToFloat(static_cast<std::uint16_t>(stored << 8));  // a half cut off after two mantissa bits
  }
};

template <typename Type, typename Out>
PARITRACE_ALWAYS_INLINE void Loop(const std::byte* in, std::int64_t count, Out* out) {
  using Stored = typename Type::Stored;
  if constexpr (std::is_same_v<Type, Plain<Out>>) {
    if (count > 0) std::memcpy(out, in, static_cast<std::size_t>(count) * sizeof(Out));
  } else {
    for (std::int64_t i = 0; i < count; ++i) {
      out[i] = static_cast<Out>(Type::Value(Load<Stored>(in + i * static_cast<std::int64_t>(sizeof(Stored)))));
    }
  }
}

template <typename Type, typename Out>
PARITRACE_TARGET_AVX2 void LoopAvx2(const std::byte* in, std::int64_t count, Out* out) {
  Loop<Type>(in, count, out);
}

template <typename Type, typename Out>
void DecodeScalars(const TensorView& tensor, std::int64_t begin, std::int64_t count, Out* out) {
  const std::byte* in = tensor.bytes.data() + begin * static_cast<std::int64_t>(sizeof(typename Type::Stored));
  if (ActiveCpuTarget() >= CpuTarget::kAvx2) return LoopAvx2<Type>(in, count, out);
  Loop<Type>(in, count, out);
}

void DecodeBlocks(const TensorView& tensor, std::int64_t begin, std::int64_t count, float* out) {
  const DTypeInfo& info = Info(tensor.dtype);
  const BlockDecoder decode = FindBlockDecoder(tensor.dtype);
  if (decode == nullptr) {
    throw UsageError(fmt::format("tensor \"{}\": no decoder for {} yet", tensor.name, info.name));
  }
  if (begin % info.block_elements != 0 || count % info.block_elements != 0) {
    throw InternalError(fmt::format("values [{}, {}) of {} cut a block", begin, begin + count, info.name));
  }
  decode(tensor.bytes.data() + begin / info.block_elements * info.block_bytes, count / info.block_elements, out);
  if (tensor.dtype == DType::kI2_S) {
    const auto scale = Load<float>(tensor.bytes.data() + tensor.size() / info.block_elements * info.block_bytes);
    for (std::int64_t i = 0; i < count; ++i) out[i] *= scale;
  }
}

// Doubles come by way of floats, which hold every value of a block type exactly; a piece at a time, so that the floats
// stay in the cache.
void DecodeBlocks(const TensorView& tensor, std::int64_t begin, std::int64_t count, double* out) {
  constexpr std::int64_t kPiece = 4096;  // a multiple of every block
  std::array<float, kPiece> piece;
  for (std::int64_t done = 0; done < count; done += kPiece) {
    const std::int64_t now = std::min(kPiece, count - done);
    DecodeBlocks(tensor, begin + done, now, piece.data());
    std::copy_n(piece.data(), now, out + done);
  }
}

// Value [r, c] of [rows, columns]: code r / (rows / 4) of byte [r % (rows / 4), c].
// Source: transformers/integrations/bitnet.py, pack_weights.
template <typename Out>
void DecodeTernaryRows(const TensorView& tensor, std::int64_t begin, std::int64_t count, Out* out) {
  if (tensor.shape.size() != 2 || tensor.shape[0] % 4 != 0) {
    throw UsageError(fmt::format("tensor \"{}\": expected [rows, columns] with whole fours of rows, found {}",
                                 tensor.name, ToString(tensor.shape)));
  }
  const std::int64_t columns = tensor.shape[1], quarter = tensor.shape[0] / 4;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t row = (begin + i) / columns, column = (begin + i) % columns;
    const auto byte = std::to_integer<int>(tensor.bytes[static_cast<std::size_t>(row % quarter * columns + column)]);
    out[i] = static_cast<Out>((byte >> (2 * (row / quarter)) & 3) - 1);
  }
}

template <typename Out>
void Decode(const TensorView& tensor, std::int64_t begin, std::int64_t count, Out* out) {
  const std::int64_t size = tensor.size();
  if (begin < 0 || count < 0 || begin > size || count > size - begin) {
    throw InternalError(
        fmt::format("values [{}, {} + {}) of \"{}\", which has {}", begin, begin, count, tensor.name, size));
  }
  const auto bytes = ByteCount(tensor.shape, tensor.dtype);
  if (!bytes || static_cast<std::uint64_t>(*bytes) != tensor.bytes.size()) {
    throw InternalError(fmt::format("\"{}\" {} {} with {} bytes", tensor.name, Name(tensor.dtype),
                                    ToString(tensor.shape), tensor.bytes.size()));
  }
  if (count == 0) return;
  switch (tensor.dtype) {
    case DType::kF64: return DecodeScalars<Plain<double>>(tensor, begin, count, out);
    case DType::kF32: return DecodeScalars<Plain<float>>(tensor, begin, count, out);
    case DType::kF16: return DecodeScalars<Half>(tensor, begin, count, out);
    case DType::kBF16: return DecodeScalars<BFloat>(tensor, begin, count, out);
    case DType::kF8E4M3: return DecodeScalars<E4M3>(tensor, begin, count, out);
    case DType::kF8E5M2: return DecodeScalars<E5M2>(tensor, begin, count, out);
    case DType::kI8: return DecodeScalars<Plain<std::int8_t>>(tensor, begin, count, out);
    case DType::kI16: return DecodeScalars<Plain<std::int16_t>>(tensor, begin, count, out);
    case DType::kI32: return DecodeScalars<Plain<std::int32_t>>(tensor, begin, count, out);
    case DType::kI64: return DecodeScalars<Plain<std::int64_t>>(tensor, begin, count, out);
    case DType::kU8: return DecodeScalars<Plain<std::uint8_t>>(tensor, begin, count, out);
    case DType::kU16: return DecodeScalars<Plain<std::uint16_t>>(tensor, begin, count, out);
    case DType::kU32: return DecodeScalars<Plain<std::uint32_t>>(tensor, begin, count, out);
    case DType::kU64: return DecodeScalars<Plain<std::uint64_t>>(tensor, begin, count, out);
    case DType::kBool: return DecodeScalars<Bool>(tensor, begin, count, out);
    case DType::kTernaryRows: return DecodeTernaryRows(tensor, begin, count, out);
    default: return DecodeBlocks(tensor, begin, count, out);
  }
}

}  // namespace

void DecodeF64(const TensorView& tensor, std::int64_t begin, std::int64_t count, double* out) {
  Decode(tensor, begin, count, out);
}

void DecodeF32(const TensorView& tensor, std::int64_t begin, std::int64_t count, float* out) {
  Decode(tensor, begin, count, out);
}

std::vector<double> DecodeAll(const TensorView& tensor) {
  std::vector<double> values(static_cast<std::size_t>(tensor.size()));
  constexpr std::int64_t kGrain = 1 << 16;  // a multiple of every block
  ParallelFor(tensor.size(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    DecodeF64(tensor, begin, end - begin, values.data() + begin);
  });
  return values;
}

}  // namespace paritrace
