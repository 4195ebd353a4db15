#include "core/block_quant.h"

#include <array>
#include <bit>
#include <cstring>

#include "core/block_layouts-inl.h"

namespace paritrace {
namespace {

using namespace block_layouts;

// The fifth bits of 32 values, one a bit. Loaded as bytes: four bytes hold the bits in order on any CPU.
PARITRACE_ALWAYS_INLINE std::uint32_t HighBits(const std::byte* at) {
  return U8(at) | U8(at + 1) << 8 | U8(at + 2) << 16 | U8(at + 3) << 24;
}

// Every struct below decodes one block. In the 32-value types the low nibbles are the first half of the block, the
// high nibbles the second: neighbours in memory are not neighbours in the row.
struct Q4_0 {  // f16 d, 16 bytes of nibbles
  static constexpr DType kDType = DType::kQ4_0;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in);
    for (int i = 0; i < 16; ++i) {
      const int q = static_cast<int>(U8(in + 2 + i));
      out[i] = d * static_cast<float>((q & 15) - 8);
      out[i + 16] = d * static_cast<float>((q >> 4) - 8);
    }
  }
};

struct Q4_1 {  // f16 d, f16 m, 16 bytes of nibbles
  static constexpr DType kDType = DType::kQ4_1;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in), m = Half(in + 2);
    for (int i = 0; i < 16; ++i) {
      const int q = static_cast<int>(U8(in + 4 + i));
      out[i] = d * static_cast<float>(q & 15) + m;
      out[i + 16] = d * static_cast<float>(q >> 4) + m;
    }
  }
};

struct Q5_0 {  // f16 d, 32 high bits, 16 bytes of nibbles
  static constexpr DType kDType = DType::kQ5_0;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in);
    const std::uint32_t high = HighBits(in + 2);
    for (int i = 0; i < 16; ++i) {
      const std::uint32_t q = U8(in + 6 + i);
      out[i] = d * static_cast<float>(static_cast<int>((q & 15) | ((high >> i) & 1) << 4) - 16);
      out[i + 16] = d * static_cast<float>(static_cast<int>((q >> 4) | ((high >> (i + 16)) & 1) << 4) - 16);
    }
  }
};

struct Q5_1 {  // f16 d, f16 m, 32 high bits, 16 bytes of nibbles
  static constexpr DType kDType = DType::kQ5_1;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in), m = Half(in + 2);
    const std::uint32_t high = HighBits(in + 4);
    for (int i = 0; i < 16; ++i) {
      const std::uint32_t q = U8(in + 8 + i);
      out[i] = d * static_cast<float>(static_cast<int>((q & 15) | ((high >> i) & 1) << 4)) + m;
      out[i + 16] = d * static_cast<float>(static_cast<int>((q >> 4) | ((high >> (i + 16)) & 1) << 4)) + m;
    }
  }
};

struct Q8_0 {  // f16 d, 32 signed bytes
  static constexpr DType kDType = DType::kQ8_0;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in);
    for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(I8(in + 2 + i)) * d;
  }
};

struct Q8_1 {  // f16 d, f16 sum of the block (redundant), 32 signed bytes
  static constexpr DType kDType = DType::kQ8_1;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in);
    for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(I8(in + 4 + i)) * d;
  }
};

struct Q8_K {  // f32 d, 256 signed bytes, 16 sums of i16 (redundant)
  static constexpr DType kDType = DType::kQ8_K;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    float d;
    std::memcpy(&d, in, sizeof d);
    for (int i = 0; i < kSuper; ++i) out[i] = d * static_cast<float>(I8(in + 4 + i));
  }
};

struct Q2_K {  // 16 bytes of scale and min nibbles, 64 bytes of 2-bit codes, f16 d, f16 dmin
  static constexpr DType kDType = DType::kQ2_K;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in + 80), dmin = Half(in + 82);
    for (int group = 0; group < 16; ++group) {
      const std::uint32_t scale = U8(in + group);
      const float dl = d * static_cast<float>(scale & 15), ml = dmin * static_cast<float>(scale >> 4);
      // 32 bytes carry four runs of 32 values, two bits each; a group is half such a run.
      const std::byte* codes = in + 16 + group / 8 * 32 + group % 2 * 16;
      const int shift = group / 2 % 4 * 2;
      for (int i = 0; i < 16; ++i) {
        out[group * 16 + i] = dl * static_cast<float>((U8(codes + i) >> shift) & 3) - ml;
      }
    }
  }
};

struct Q3_K {  // 32 bytes of high bits, 64 bytes of 2-bit codes, 12 bytes of 6-bit scales, f16 d
  static constexpr DType kDType = DType::kQ3_K;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in + 108);
    const std::byte* packed = in + 96;
    for (int group = 0; group < 16; ++group) {
      const std::uint32_t low = (U8(packed + group % 8) >> (group / 8 * 4)) & 15;
      const std::uint32_t high = (U8(packed + 8 + group % 4) >> (group / 4 * 2)) & 3;
      const float dl = d * static_cast<float>(static_cast<int>(low | high << 4) - 32);
      const std::byte* codes = in + 32 + group / 8 * 32 + group % 2 * 16;
      const int shift = group / 2 % 4 * 2;
      for (int i = 0; i < 16; ++i) {
        const int code = static_cast<int>((U8(codes + i) >> shift) & 3);
        // A set high bit means "nothing subtracted".
        const int clear = static_cast<int>(~(U8(in + group % 2 * 16 + i) >> (group / 2)) & 1);
        out[group * 16 + i] = dl * static_cast<float>(code - 4 * clear);
      }
    }
  }
};

struct ScaleAndMin {
  float scale, min;
};

// Eight 6-bit scales and eight 6-bit minima in 12 bytes: the first four whole, the rest split into nibble and top bits.
PARITRACE_ALWAYS_INLINE ScaleAndMin UnpackScale(const std::byte* packed, int group) {
  if (group < 4) {
    return {static_cast<float>(U8(packed + group) & 63), static_cast<float>(U8(packed + 4 + group) & 63)};
  }
  const std::uint32_t low = U8(packed + 4 + group);
  return {static_cast<float>((low & 15) | ((U8(packed + group - 4) >> 6) << 4)),
          static_cast<float>((low >> 4) | ((U8(packed + group) >> 6) << 4))};
}

struct Q4_K {  // f16 d, f16 dmin, 12 bytes of scales and minima, 128 bytes of nibbles
  static constexpr DType kDType = DType::kQ4_K;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in), dmin = Half(in + 2);
    for (int group = 0; group < 8; ++group) {
      const auto [scale, min] = UnpackScale(in + 4, group);
      const float dl = d * scale, ml = dmin * min;
      const std::byte* codes = in + 16 + group / 2 * 32;
      const int shift = group % 2 * 4;
      for (int i = 0; i < 32; ++i) {
        out[group * 32 + i] = dl * static_cast<float>((U8(codes + i) >> shift) & 15) - ml;
      }
    }
  }
};

struct Q5_K {  // f16 d, f16 dmin, 12 bytes of scales and minima, 32 bytes of high bits, 128 bytes of nibbles
  static constexpr DType kDType = DType::kQ5_K;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in), dmin = Half(in + 2);
    for (int group = 0; group < 8; ++group) {
      const auto [scale, min] = UnpackScale(in + 4, group);
      const float dl = d * scale, ml = dmin * min;
      const std::byte* codes = in + 48 + group / 2 * 32;
      const int shift = group % 2 * 4;
      for (int i = 0; i < 32; ++i) {
        const std::uint32_t code = ((U8(codes + i) >> shift) & 15) | ((U8(in + 16 + i) >> group) & 1) << 4;
        out[group * 32 + i] = dl * static_cast<float>(code) - ml;
      }
    }
  }
};

struct Q6_K {  // 128 bytes of nibbles, 64 bytes of 2-bit tops, 16 signed scales, f16 d
  static constexpr DType kDType = DType::kQ6_K;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in + 208);
    for (int group = 0; group < 8; ++group) {  // 32 values: two scales
      const std::byte* low = in + group / 4 * 64 + group % 2 * 32;
      const std::byte* high = in + 128 + group / 4 * 32;
      const int low_shift = group / 2 % 2 * 4, high_shift = group % 4 * 2;
      for (int half = 0; half < 2; ++half) {
        const float dl = d * static_cast<float>(I8(in + 192 + group * 2 + half));
        for (int i = half * 16; i < half * 16 + 16; ++i) {
          const std::uint32_t code = ((U8(low + i) >> low_shift) & 15) | ((U8(high + i) >> high_shift) & 3) << 4;
          out[group * 32 + i] = dl * static_cast<float>(static_cast<int>(code) - 32);
        }
      }
    }
  }
};

struct TQ1_0 {  // 48 bytes of five trits each, 4 bytes of four trits, f16 d
  static constexpr DType kDType = DType::kTQ1_0;

  // A byte is ceil(256/243 * number in base 3): multiplying by 3^n in eight bits brings digit n to the top.
  PARITRACE_ALWAYS_INLINE static void Trits(const std::byte* in, int bytes, int digits, float d, float* out) {
    std::uint32_t power = 1;
    for (int digit = 0; digit < digits; ++digit, power *= 3) {
      for (int i = 0; i < bytes; ++i) {
        const std::uint32_t shifted = (U8(in + i) * power) & 255;
        out[digit * bytes + i] = d * static_cast<float>(static_cast<int>((shifted * 3) >> 8) - 1);
      }
    }
  }
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in + 52);
    Trits(in, 32, 5, d, out);
    Trits(in + 32, 16, 5, d, out + 160);
    Trits(in + 48, 4, 4, d, out + 240);
  }
};

struct TQ2_0 {  // 64 bytes of 2-bit codes, f16 d
  static constexpr DType kDType = DType::kTQ2_0;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in + 64);
    for (int group = 0; group < 8; ++group) {
      for (int i = 0; i < 32; ++i) {
        const int code = static_cast<int>((U8(in + group / 4 * 32 + i) >> (group % 4 * 2)) & 3);
        out[group * 32 + i] = d * static_cast<float>(code - 1);
      }
    }
  }
};

struct I2_S {  // 32 bytes of 2-bit codes, the first run of 32 values in the top bits
  static constexpr DType kDType = DType::kI2_S;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    for (int group = 0; group < 4; ++group) {
      for (int i = 0; i < 32; ++i) {
        out[group * 32 + i] = static_cast<float>(static_cast<int>((U8(in + i) >> (6 - 2 * group)) & 3) - 1);
      }
    }
  }
};

struct Q1_0 {  // f16 d, 128 signs
  static constexpr DType kDType = DType::kQ1_0;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in);
    for (int i = 0; i < 128; ++i) out[i] = ((U8(in + 2 + i / 8) >> (i % 8)) & 1) != 0 ? d : -d;
  }
};

// e2m1 values times two; the block scales are halved to make up for it.
constexpr std::array<float, 16> kFp4 = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
constexpr std::array<float, 16> kIq4 = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

struct MXFP4 {  // e8m0 scale, 16 bytes of nibbles
  static constexpr DType kDType = DType::kMXFP4;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const std::uint32_t e = U8(in);
    // Half of 2^(e - 127); the two smallest exponents give subnormal floats.
    const float d = std::bit_cast<float>(e < 2 ? 0x00200000u << e : (e - 1) << 23);
    for (int i = 0; i < 16; ++i) {
      out[i] = d * kFp4[U8(in + 1 + i) & 15];
      out[i + 16] = d * kFp4[U8(in + 1 + i) >> 4];
    }
  }
};

struct NVFP4 {  // four unsigned e4m3 scales, one for 16 values each; 32 bytes of nibbles
  static constexpr DType kDType = DType::kNVFP4;
  PARITRACE_ALWAYS_INLINE static float Scale(std::uint32_t x) {
    if (x == 0x7f) return 0;  // NaN in e4m3; ggml reads it as no scale at all
    const auto mantissa = static_cast<float>(x & 7);
    const std::uint32_t exponent = (x >> 3) & 15;
    if (exponent == 0) return mantissa * 0x1p-9f * 0.5f;
    return (1.0f + mantissa / 8.0f) * std::bit_cast<float>((exponent + 127 - 7) << 23) * 0.5f;
  }
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    for (int group = 0; group < 4; ++group) {
      const float d = Scale(U8(in + group));
      for (int i = 0; i < 8; ++i) {
        const std::uint32_t q = U8(in + 4 + group * 8 + i);
        out[group * 16 + i] = d * kFp4[q & 15];
        out[group * 16 + i + 8] = d * kFp4[q >> 4];
      }
    }
  }
};

struct IQ4_NL {  // f16 d, 16 bytes of nibbles into a table
  static constexpr DType kDType = DType::kIQ4_NL;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in);
    for (int i = 0; i < 16; ++i) {
      out[i] = d * kIq4[U8(in + 2 + i) & 15];
      out[i + 16] = d * kIq4[U8(in + 2 + i) >> 4];
    }
  }
};

struct IQ4_XS {  // f16 d, top bits of 8 scales, low nibbles of 8 scales, 128 bytes of nibbles into a table
  static constexpr DType kDType = DType::kIQ4_XS;
  PARITRACE_ALWAYS_INLINE static void Block(const std::byte* in, float* out) {
    const float d = Half(in);
    const std::uint32_t tops = U16(in + 2);
    for (int group = 0; group < 8; ++group) {
      const std::uint32_t low = (U8(in + 4 + group / 2) >> (group % 2 * 4)) & 15;
      const std::uint32_t high = (tops >> (2 * group)) & 3;
      const float dl = d * static_cast<float>(static_cast<int>(low | high << 4) - 32);
      for (int i = 0; i < 16; ++i) {
        const std::uint32_t q = U8(in + 8 + group * 16 + i);
        out[group * 32 + i] = dl * kIq4[q & 15];
        out[group * 32 + i + 16] = dl * kIq4[q >> 4];
      }
    }
  }
};

}  // namespace

BlockDecoder FindBlockDecoder(DType dtype) {
  const BlockDecoder found = FindAmong<Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_K, TQ1_0,
                                       TQ2_0, I2_S, Q1_0, MXFP4, NVFP4, IQ4_NL, IQ4_XS>(dtype);
  return found != nullptr ? found : FindCodebookDecoder(dtype);
}

}  // namespace paritrace
