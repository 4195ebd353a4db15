// The layouts of ggml's IQ types: each code is an index into a codebook of four or eight values (iq_grids.h).
// Source: ggml-quants.c and ggml-common.h; the values are those of gguf-py's dequantize, to the bit.
#include <array>
#include <bit>
#include <cstring>

#include "core/block_layouts-inl.h"
#include "core/iq_grids.h"

namespace paritrace {
namespace {

using namespace block_layouts;

constexpr std::array<float, 4> kIq2Values = {8, 25, 43, 0};  // two bits; the fourth code is in no codebook
constexpr std::array<float, 4> kIq1Values = {-1, 0, 1, 0};
constexpr std::array<float, 8> kIq3XxsValues = {4, 12, 20, 28, 36, 44, 52, 62};
constexpr std::array<float, 8> kIq3SValues = {1, 3, 5, 7, 9, 11, 13, 15};

PARITRACE_ALWAYS_INLINE std::uint32_t U32(const std::byte* at) {
  std::uint32_t value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// Eight values of a two-bit codebook entry, their signs in the bits of `signs`.
PARITRACE_ALWAYS_INLINE void Eight(std::uint32_t entry, std::uint32_t signs, float d, float* out) {
  for (int i = 0; i < 8; ++i) {
    const float value = d * kIq2Values[(entry >> (2 * i)) & 3];
    out[i] = ((signs >> i) & 1) != 0 ? -value : value;
  }
}

// Four values of a three-bit entry.
PARITRACE_ALWAYS_INLINE void Four(std::uint32_t entry, std::uint32_t signs, const std::array<float, 8>& values, float d,
                                  float* out) {
  for (int i = 0; i < 4; ++i) {
    const float value = d * values[(entry >> (3 * i)) & 7];
    out[i] = ((signs >> i) & 1) != 0 ? -value : value;
  }
}

// Only seven of eight signs are stored: the number of minus signs is even.
PARITRACE_ALWAYS_INLINE std::uint32_t EvenSigns(std::uint32_t seven) {
  return seven | static_cast<std::uint32_t>(std::popcount(seven) & 1) << 7;
}

PARITRACE_ALWAYS_INLINE float Nibble(const std::byte* packed, int index) {
  return static_cast<float>((U8(packed + index / 2) >> (index % 2 * 4)) & 15);
}

struct IQ2_XXS {  // f16 d; for 32 values: four indices of 8 bits, four times 7 signs, 4 bits of scale
  static constexpr DType kDType = DType::kIQ2_XXS;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in);
    for (int group = 0; group < 8; ++group) {
      const std::byte* codes = in + 2 + group * 8;
      const std::uint32_t rest = U32(codes + 4);
      const float db = d * (0.5f + static_cast<float>(rest >> 28)) * 0.25f;
      for (int i = 0; i < 4; ++i)
        Eight(kIq2XxsGrid[U8(codes + i)], EvenSigns((rest >> (7 * i)) & 127), db, out + group * 32 + i * 8);
    }
  }
};

struct IQ2_XS {  // f16 d, 32 times 9 bits of index and 7 signs, 16 nibbles of scale
  static constexpr DType kDType = DType::kIQ2_XS;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in);
    for (int i = 0; i < 32; ++i) {
      const std::uint32_t code = U16(in + 2 + i * 2);
      const float db = d * (0.5f + Nibble(in + 66, i / 2)) * 0.25f;
      Eight(kIq2XsGrid[code & 511], EvenSigns(code >> 9), db, out + i * 8);
    }
  }
};

struct IQ2_S {  // f16 d, 32 low bytes of index, 32 bytes of signs, 8 bytes of high bits, 16 nibbles of scale
  static constexpr DType kDType = DType::kIQ2_S;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in);
    for (int i = 0; i < 32; ++i) {
      const std::uint32_t code = U8(in + 2 + i) | ((U8(in + 66 + i / 4) >> (i % 4 * 2)) & 3) << 8;
      const float db = d * (0.5f + Nibble(in + 74, i / 2)) * 0.25f;
      Eight(kIq2SGrid[code], U8(in + 34 + i), db, out + i * 8);
    }
  }
};

struct IQ3_XXS {  // f16 d, 64 bytes of index, for 32 values 28 signs and 4 bits of scale
  static constexpr DType kDType = DType::kIQ3_XXS;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in);
    for (int group = 0; group < 8; ++group) {
      const std::uint32_t rest = U32(in + 66 + group * 4);
      const float db = d * (0.5f + static_cast<float>(rest >> 28)) * 0.5f;
      for (int i = 0; i < 4; ++i) {
        const std::uint32_t signs = EvenSigns((rest >> (7 * i)) & 127);
        const std::byte* codes = in + 2 + group * 8 + i * 2;
        float* values = out + group * 32 + i * 8;
        Four(kIq3XxsGrid[U8(codes)], signs, kIq3XxsValues, db, values);
        Four(kIq3XxsGrid[U8(codes + 1)], signs >> 4, kIq3XxsValues, db, values + 4);
      }
    }
  }
};

struct IQ3_S {  // f16 d, 64 low bytes of index, 8 bytes of high bits, 32 bytes of signs, 8 nibbles of scale
  static constexpr DType kDType = DType::kIQ3_S;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in);
    for (int i = 0; i < 64; ++i) {
      const std::uint32_t code = U8(in + 2 + i) | ((U8(in + 66 + i / 8) >> (i % 8)) & 1) << 8;
      const float db = d * (1 + 2 * Nibble(in + 106, i / 8));
      Four(kIq3SGrid[code], U8(in + 74 + i / 2) >> (i % 2 * 4), kIq3SValues, db, out + i * 4);
    }
  }
};

// dl * (value + shift): the sum is exact.
PARITRACE_ALWAYS_INLINE void EightTernary(std::uint32_t entry, float shift, float dl, float* out) {
  for (int i = 0; i < 8; ++i) out[i] = dl * (kIq1Values[(entry >> (2 * i)) & 3] + shift);
}

struct IQ1_S {  // f16 d, 32 low bytes of index, for 32 values four times 3 high bits, 3 bits of scale, the shift's sign
  static constexpr DType kDType = DType::kIQ1_S;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in);
    for (int group = 0; group < 8; ++group) {
      const std::uint32_t high = U16(in + 34 + group * 2);
      const float dl = d * static_cast<float>(2 * ((high >> 12) & 7) + 1);
      const float shift = (high & 0x8000) == 0 ? 0.125f : -0.125f;
      for (int i = 0; i < 4; ++i) {
        const std::uint32_t code = U8(in + 2 + group * 4 + i) | ((high >> (3 * i)) & 7) << 8;
        EightTernary(kIq1Grid[code], shift, dl, out + group * 32 + i * 8);
      }
    }
  }
};

struct
    IQ1_M {  // 32 low bytes of index, 32 nibbles of 3 high bits and the shift's sign, 16 scales of 3 bits with d between them
  static constexpr DType kDType = DType::kIQ1_M;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const std::byte* scales = in + 48;
    // d's nibbles are the tops of the four words of scales.
    std::uint32_t bits = 0;
    for (int i = 0; i < 4; ++i) bits |= (U16(scales + 2 * i) >> 12) << (4 * i);
    const float d = HalfToFloat(static_cast<std::uint16_t>(bits));
    for (int i = 0; i < 32; ++i) {
      const std::uint32_t scale = (U16(scales + i / 8 * 2) >> (i / 2 % 4 * 3)) & 7;
      const std::uint32_t high = U8(in + 32 + i / 2) >> (i % 2 * 4);
      const float shift = (high & 8) == 0 ? 0.125f : -0.125f;
      EightTernary(kIq1Grid[U8(in + i) | (high & 7) << 8], shift, d * static_cast<float>(2 * scale + 1), out + i * 8);
    }
  }
};

}  // namespace

BlockDecoder FindCodebookDecoder(DType dtype) {
  return FindAmong<IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S>(dtype);
}

}  // namespace paritrace
