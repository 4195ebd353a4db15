#include "core/decode.h"

#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/cpu_target.h"
#include "core/error.h"

namespace paritrace {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// Values of the IEEE definition, without our bit tricks.
double HalfByDefinition(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == 31) return mantissa != 0 ? std::nan("") : sign * kInf;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST(Half, EveryBitPatternIsTheIeeeValue) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const double want = HalfByDefinition(half);
    const float got = HalfToFloat(half);
    if (std::isnan(want)) {
      ASSERT_TRUE(std::isnan(got)) << bits;
      ASSERT_TRUE(std::isnan(HalfToFloat(FloatToHalf(got)))) << bits;
      continue;
    }
    ASSERT_EQ(static_cast<double>(got), want) << bits;
    ASSERT_EQ(std::signbit(got), std::signbit(want)) << bits;
    ASSERT_EQ(FloatToHalf(got), half) << bits;
  }
}

// Between two neighbours: just below and above the middle goes to the nearer, the middle to the even one.
TEST(Half, RoundsToNearestEvenBetweenAllNeighbours) {
  for (std::uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const auto low = static_cast<std::uint16_t>(bits), high = static_cast<std::uint16_t>(bits + 1);
    const float middle = static_cast<float>((HalfByDefinition(low) + HalfByDefinition(high)) / 2);
    const std::uint16_t even = (low & 1) == 0 ? low : high;
    ASSERT_EQ(FloatToHalf(middle), even) << bits;
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, 0.0f)), low) << bits;
    ASSERT_EQ(FloatToHalf(std::nextafter(middle, kInf)), high) << bits;
    ASSERT_EQ(FloatToHalf(-middle), even | 0x8000) << bits;
  }
}

struct RoundingCase {
  const char* name;
  float value;
  std::uint16_t half, bfloat;
};
class RoundingTest : public ::testing::TestWithParam<RoundingCase> {};
TEST_P(RoundingTest, HalfAndBFloat) {
  EXPECT_EQ(FloatToHalf(GetParam().value), GetParam().half);
  EXPECT_EQ(FloatToBFloat(GetParam().value), GetParam().bfloat);
}
INSTANTIATE_TEST_SUITE_P(Table, RoundingTest,
                         ::testing::Values(RoundingCase{"HalfOverflowsHalfwayUp", 65520.0f, 0x7c00, 0x4780},
                                           RoundingCase{"HalfLargest", std::nextafter(65520.0f, 0.0f), 0x7bff, 0x4780},
                                           RoundingCase{"HalfSmallestTie", 0x1p-25f, 0x0000, 0x3300},
                                           RoundingCase{"AboveHalfSmallestTie", 0x1.000002p-25f, 0x0001, 0x3300},
                                           RoundingCase{"FloatMax", std::numeric_limits<float>::max(), 0x7c00, 0x7f80},
                                           RoundingCase{"NegativeInfinity", -kInf, 0xfc00, 0xff80},
                                           RoundingCase{"NegativeZero", -0.0f, 0x8000, 0x8000},
                                           RoundingCase{"SubnormalFloat", 0x1p-149f, 0x0000, 0x0000},
                                           RoundingCase{"BFloatTieToEven", 0x1.01p0f, 0x3c04, 0x3f80},
                                           RoundingCase{"BFloatTieToOddNeighbourUp", 0x1.03p0f, 0x3c0c, 0x3f82}),
                         [](const auto& row) { return row.param.name; });

// A NaN whose payload lies only in the bits that are cut off must not become infinity.
TEST(BFloat, NaNStaysNaN) {
  const float low_payload = std::bit_cast<float>(0x7f800001u), full_payload = std::bit_cast<float>(0xffffffffu);
  EXPECT_TRUE(std::isnan(BFloatToFloat(FloatToBFloat(low_payload))));
  EXPECT_TRUE(std::isnan(BFloatToFloat(FloatToBFloat(full_payload))));
  EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(low_payload))));
}

struct Bytes {
  std::vector<std::byte> all;
  template <typename T>
  Bytes& Add(T value) {
    const auto* at = reinterpret_cast<const std::byte*>(&value);
    all.insert(all.end(), at, at + sizeof value);
    return *this;
  }
};

template <typename T>
std::vector<std::byte> BytesOf(std::initializer_list<T> values) {
  Bytes bytes;
  for (const T value : values) bytes.Add(value);
  return bytes.all;
}

struct ScalarCase {
  const char* name;
  DType dtype;
  std::vector<std::byte> bytes;
  std::vector<double> values;
};
class ScalarTest : public ::testing::TestWithParam<ScalarCase> {};
TEST_P(ScalarTest, DecodesToTheValues) {
  const auto& row = GetParam();
  const auto count = static_cast<std::int64_t>(row.values.size());
  const TensorView tensor{"t", row.dtype, {count}, row.bytes};
  EXPECT_EQ(DecodeAll(tensor), row.values);
  std::vector<float> floats(row.values.size());
  DecodeF32(tensor, 0, count, floats.data());
  for (std::size_t i = 0; i < floats.size(); ++i) EXPECT_EQ(floats[i], static_cast<float>(row.values[i])) << i;
}
INSTANTIATE_TEST_SUITE_P(
    Table, ScalarTest,
    ::testing::Values(
        ScalarCase{"F64KeepsAllDigits", DType::kF64, BytesOf<double>({1.0 / 3, -1e300}), {1.0 / 3, -1e300}},
        ScalarCase{"F32", DType::kF32, BytesOf<float>({0.1f, -kInf}), {static_cast<double>(0.1f), -kInf}},
        ScalarCase{"BF16", DType::kBF16, BytesOf<std::uint16_t>({0x3f80, 0xc000, 0x0001}), {1, -2, 0x1p-133}},
        ScalarCase{"F8E4M3",
                   DType::kF8E4M3,
                   BytesOf<std::uint8_t>({0x38, 0x7e, 0x01, 0x88, 0xfe, 0x07}),
                   {1, 448, 0x1p-9, -0x1p-6, -448, 7 * 0x1p-9}},
        ScalarCase{
            "F8E5M2", DType::kF8E5M2, BytesOf<std::uint8_t>({0x3c, 0x7b, 0x01, 0xfc}), {1, 57344, 0x1p-16, -kInf}},
        ScalarCase{"I8", DType::kI8, BytesOf<std::int8_t>({-128, 127}), {-128, 127}},
        ScalarCase{"I16", DType::kI16, BytesOf<std::int16_t>({-32768, 5}), {-32768, 5}},
        ScalarCase{"I32",
                   DType::kI32,
                   BytesOf<std::int32_t>({std::numeric_limits<std::int32_t>::min(), 7}),
                   {-2147483648.0, 7}},
        ScalarCase{"I64", DType::kI64, BytesOf<std::int64_t>({-(1ll << 53), 9}), {-9007199254740992.0, 9}},
        ScalarCase{"U8", DType::kU8, BytesOf<std::uint8_t>({255}), {255}},
        ScalarCase{"U16", DType::kU16, BytesOf<std::uint16_t>({65535}), {65535}},
        ScalarCase{"U32", DType::kU32, BytesOf<std::uint32_t>({4294967295u}), {4294967295.0}},
        ScalarCase{"U64", DType::kU64, BytesOf<std::uint64_t>({1ull << 63}), {0x1p63}},
        ScalarCase{"BoolIsAnythingButZero", DType::kBool, BytesOf<std::uint8_t>({0, 1, 2}), {0, 1, 1}},
        ScalarCase{"Empty", DType::kF16, {}, {}}),
    [](const auto& row) { return row.param.name; });

TEST(Decode, E4M3HasNaNAndNoInfinity) {
  const auto bytes = BytesOf<std::uint8_t>({0x7f, 0xff});
  const auto values = DecodeAll({"t", DType::kF8E4M3, {2}, bytes});
  EXPECT_TRUE(std::isnan(values[0]) && std::isnan(values[1]));
}

// Blocks written out by hand, from the struct comments of ggml-common.h; the whole range of bit patterns is checked against
// gguf-py in tests/python/test_formats.py.
TEST(Decode, Q8_0BlocksByHand) {
  Bytes bytes;
  for (const std::uint16_t scale : {0x3800, 0xc000}) {  // 0.5, -2
    bytes.Add(scale);
    for (int i = 0; i < 32; ++i) bytes.Add(static_cast<std::int8_t>(i * 4 - 64));
  }
  const auto values = DecodeAll({"t", DType::kQ8_0, {2, 32}, bytes.all});
  for (std::size_t i = 0; i < 32; ++i) {
    EXPECT_EQ(values[i], 0.5 * (static_cast<double>(i) * 4 - 64));
    EXPECT_EQ(values[32 + i], -2 * (static_cast<double>(i) * 4 - 64));
  }
}

TEST(Decode, Q4_0LowNibblesAreTheFirstHalf) {
  Bytes bytes;
  bytes.Add<std::uint16_t>(0x4000);  // 2
  for (int i = 0; i < 16; ++i) bytes.Add(static_cast<std::uint8_t>(i | (15 - i) << 4));
  const auto values = DecodeAll({"t", DType::kQ4_0, {32}, bytes.all});
  for (std::size_t i = 0; i < 16; ++i) {
    EXPECT_EQ(values[i], 2 * (static_cast<double>(i) - 8));
    EXPECT_EQ(values[16 + i], 2 * (7 - static_cast<double>(i)));
  }
}

// Four values of a byte stand 32 apart, the first in the top bits; one scale for all, behind the codes.
TEST(Decode, I2_SHasItsScaleAtTheEnd) {
  Bytes bytes;
  for (int block = 0; block < 2; ++block) {
    for (int i = 0; i < 32; ++i) bytes.Add<std::uint8_t>(0b10'01'00'10);
  }
  bytes.Add(0.75f);
  bytes.all.resize(bytes.all.size() + 28);
  const auto values = DecodeAll({"t", DType::kI2_S, {2, 128}, bytes.all});
  for (const std::size_t row : {0u, 128u}) {
    EXPECT_EQ(values[row], 0.75);
    EXPECT_EQ(values[row + 32], 0);
    EXPECT_EQ(values[row + 64], -0.75);
    EXPECT_EQ(values[row + 127], 0.75);
  }
}

constexpr std::array kDecodable = {
    DType::kF64,   DType::kF32,   DType::kF16,     DType::kBF16,   DType::kF8E4M3, DType::kF8E5M2,  DType::kI8,
    DType::kI16,   DType::kI32,   DType::kI64,     DType::kU8,     DType::kU16,    DType::kU32,     DType::kU64,
    DType::kBool,  DType::kQ4_0,  DType::kQ4_1,    DType::kQ5_0,   DType::kQ5_1,   DType::kQ8_0,    DType::kQ2_K,
    DType::kQ3_K,  DType::kQ4_K,  DType::kQ5_K,    DType::kQ6_K,   DType::kQ8_K,   DType::kTQ1_0,   DType::kTQ2_0,
    DType::kMXFP4, DType::kNVFP4, DType::kIQ4_NL,  DType::kIQ4_XS, DType::kI2_S,   DType::kQ8_1,    DType::kQ1_0,
    DType::kIQ1_S, DType::kIQ1_M, DType::kIQ2_XXS, DType::kIQ2_XS, DType::kIQ2_S,  DType::kIQ3_XXS, DType::kIQ3_S};

// Every dtype x target x length around the vector width x misaligned start: same bits as the baseline loop.
TEST(Decode, AllTargetsLengthsAndAlignmentsAgree) {
  for (const DType dtype : kDecodable) {
    const std::int64_t block = Info(dtype).block_elements;
    for (const std::int64_t blocks : {0, 1, 7, 8, 9, 67}) {
      const TensorView shape_only{"t", dtype, {blocks * block}, {}};
      const auto size = static_cast<std::size_t>(*ByteCount(shape_only.shape, dtype));
      std::vector<std::byte> memory(size + 3);
      for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<std::byte>(i * 37 % 253);
      const std::vector<std::byte> original = memory;
      const auto count = static_cast<std::size_t>(blocks * block);
      std::vector<float> baseline(count), other(count);
      std::vector<double> wide(count);
      ASSERT_TRUE(ForceCpuTarget(CpuTarget::kBaseline));
      DecodeF32({"t", dtype, {blocks * block}, std::span(original).first(size)}, 0, blocks * block, baseline.data());
      for (const CpuTarget target : {CpuTarget::kBaseline, CpuTarget::kAvx2}) {
        if (!ForceCpuTarget(target)) continue;
        EXPECT_EQ(ActiveCpuTarget(), target);
        for (const std::size_t start : {0u, 1u, 3u}) {
          std::copy_n(original.begin(), size, memory.begin() + static_cast<std::ptrdiff_t>(start));
          const TensorView moved{"t", dtype, {blocks * block}, std::span(memory).subspan(start, size)};
          DecodeF32(moved, 0, blocks * block, other.data());
          DecodeF64(moved, 0, blocks * block, wide.data());
          for (std::size_t i = 0; i < count; ++i) {
            if (std::isnan(baseline[i])) {
              ASSERT_TRUE(std::isnan(other[i]) && std::isnan(wide[i])) << Name(dtype) << i;
            } else {
              ASSERT_EQ(std::bit_cast<std::uint32_t>(other[i]), std::bit_cast<std::uint32_t>(baseline[i]))
                  << Name(dtype) << i;
              ASSERT_EQ(static_cast<float>(wide[i]), baseline[i]) << Name(dtype) << i;
            }
          }
        }
      }
      ForceCpuTarget(std::nullopt);
    }
  }
}

TEST(Decode, PartsOfATensor) {
  Bytes bytes;
  for (int i = 0; i < 8; ++i) bytes.Add(static_cast<float>(i));
  const TensorView tensor{"t", DType::kF32, {2, 4}, bytes.all};
  std::array<double, 3> part{};
  DecodeF64(tensor, 3, 3, part.data());
  EXPECT_EQ(part, (std::array<double, 3>{3, 4, 5}));
}

// Source: the example in transformers/integrations/bitnet.py, unpack_weights.
TEST(Decode, TernaryRowsStandAQuarterApart) {
  std::vector<std::byte> bytes;
  for (const int code :
       {0b10100001, 0b00011000, 0b10100001, 0b00011000, 0b10010000, 0b00001010, 0b10010000, 0b00001010}) {
    bytes.push_back(static_cast<std::byte>(code));
  }
  const std::vector<double> values = DecodeAll({"t", DType::kTernaryRows, {8, 4}, bytes});
  const std::vector<std::vector<double>> rows = {{0, -1}, {-1, 1}, {-1, 1}, {-1, 1}, {1, 0}, {0, -1}, {1, -1}, {1, -1}};
  ASSERT_EQ(values.size(), 32u);
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], rows[i / 4][i % 2]) << i;
}

template <typename Error>
std::string MessageOf(const TensorView& tensor, std::int64_t begin, std::int64_t count) {
  std::vector<float> out(1024);
  try {
    DecodeF32(tensor, begin, count, out.data());
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing thrown";
}

TEST(Decode, RefusesWhatItCannotDo) {
  const std::vector<std::byte> bytes(256);
  const TensorView four{"t", DType::kF32, {4}, std::span(bytes).first(16)};
  EXPECT_THAT(MessageOf<InternalError>(four, 2, 3), ::testing::HasSubstr("values [2, 2 + 3) of \"t\", which has 4"));
  EXPECT_THAT(MessageOf<InternalError>(four, -1, 1), ::testing::HasSubstr("values [-1"));
  EXPECT_THAT(MessageOf<InternalError>({"t", DType::kF32, {5}, four.bytes}, 0, 1),
              ::testing::HasSubstr("with 16 bytes"));
  EXPECT_THAT(MessageOf<InternalError>({"t", DType::kQ8_0, {64}, std::span(bytes).first(68)}, 16, 32),
              ::testing::HasSubstr("cut a block"));
  EXPECT_THAT(MessageOf<UsageError>({"t", DType::kTernaryRows, {6, 4}, std::span(bytes).first(6)}, 0, 4),
              ::testing::HasSubstr("whole fours of rows, found [6, 4]"));
}

}  // namespace
}  // namespace paritrace
