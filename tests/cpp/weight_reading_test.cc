#include "graph/weight_reading.h"

#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "core/decode.h"

namespace paritrace {
namespace {

// A matrix of random blocks with finite scales: small f16 numbers where the type has its scales.
struct Blocks {
  std::vector<std::byte> bytes;
  TensorView view;

  Blocks(DType type, std::int64_t rows, std::int64_t columns, const std::vector<int>& halves) {
    const DTypeInfo& info = Info(type);
    std::mt19937 random(7);
    bytes.resize(static_cast<std::size_t>(rows * columns / info.block_elements * info.block_bytes));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() & 0xff);
    for (std::size_t at = 0; at < bytes.size(); at += static_cast<std::size_t>(info.block_bytes)) {
      for (const int half : halves) {
        const std::uint16_t bits = FloatToHalf(0.01F + 0.001F * static_cast<float>(random() % 97));
        std::memcpy(bytes.data() + at + half, &bits, sizeof bits);
      }
    }
    view = {.name = "w", .dtype = type, .shape = {rows, columns}, .bytes = bytes};
  }
};

struct TypeCase {
  const char* name;
  DType type;
  std::int64_t columns;
  std::vector<int> halves;
};

class ReadRowsTest : public ::testing::TestWithParam<TypeCase> {};

// Read rightly, and with every part that has no meaning for the type set, the values are the decoder's.
TEST_P(ReadRowsTest, ReadsRightlyByDefault) {
  const Blocks blocks(GetParam().type, 5, GetParam().columns, GetParam().halves);
  const std::vector<double> right = DecodeAll(blocks.view);
  const std::vector<float> read = ReadRows(blocks.view, {}, 1, 3);
  ASSERT_EQ(static_cast<std::int64_t>(read.size()), 3 * GetParam().columns);
  for (std::size_t i = 0; i < read.size(); ++i)
    ASSERT_EQ(read[i], static_cast<float>(right[i + static_cast<std::size_t>(GetParam().columns)])) << i;
}

// Swapping twice, and adding what was taken away, gives the right values again.
TEST_P(ReadRowsTest, PartsAddUp) {
  const Blocks blocks(GetParam().type, 2, GetParam().columns, GetParam().halves);
  const ReadableParts parts = PartsOf(GetParam().type);
  const std::vector<float> right = ReadRows(blocks.view, {}, 0, 2);
  if (parts.codes) {
    const std::vector<float> up = ReadRows(blocks.view, {.shift = 1}, 0, 2),
                             down = ReadRows(blocks.view, {.shift = -1}, 0, 2);
    std::size_t moved = 0;  // a group's own scale may be zero
    for (std::size_t i = 0; i < right.size(); ++i) {
      moved += up[i] != right[i] ? 1 : 0;
      ASSERT_NEAR(up[i] - right[i], right[i] - down[i], 1e-4) << i;
    }
    EXPECT_GT(moved, right.size() / 2);
  }
  if (parts.offset) {
    EXPECT_NE(ReadRows(blocks.view, {.offset_factor = 0}, 0, 2), right);
  }
  if (parts.nibbles) {
    EXPECT_NE(ReadRows(blocks.view, {.nibbles = Nibbles::kSwapped}, 0, 2), right);
  }
  if (parts.scale) {
    EXPECT_NE(ReadRows(blocks.view, {.scale_from = ScaleFrom::kNext}, 0, 2), right);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Types, ReadRowsTest,
    ::testing::Values(TypeCase{"q4_0", DType::kQ4_0, 96, {0}}, TypeCase{"q4_1", DType::kQ4_1, 64, {0, 2}},
                      TypeCase{"q5_0", DType::kQ5_0, 64, {0}}, TypeCase{"q5_1", DType::kQ5_1, 64, {0, 2}},
                      TypeCase{"q8_0", DType::kQ8_0, 64, {0}}, TypeCase{"q4_k", DType::kQ4_K, 512, {0, 2}},
                      TypeCase{"q5_k", DType::kQ5_K, 256, {0, 2}}, TypeCase{"q6_k", DType::kQ6_K, 256, {208}},
                      TypeCase{"tq2_0", DType::kTQ2_0, 256, {64}}, TypeCase{"iq4_nl", DType::kIQ4_NL, 64, {0}}),
    [](const auto& row) { return row.param.name; });

TEST(ReadRows, NibblesOfAByteAsNeighbours) {
  const Blocks blocks(DType::kQ4_0, 1, 32, {0});
  const std::vector<float> right = ReadRows(blocks.view, {}, 0, 1),
                           paired = ReadRows(blocks.view, {.nibbles = Nibbles::kPaired}, 0, 1),
                           swapped = ReadRows(blocks.view, {.nibbles = Nibbles::kPairedSwapped}, 0, 1);
  for (std::size_t i = 0; i < 16; ++i) {
    EXPECT_EQ(paired[2 * i], right[i]);
    EXPECT_EQ(paired[2 * i + 1], right[i + 16]);
    EXPECT_EQ(swapped[2 * i], right[i + 16]);
    EXPECT_EQ(swapped[2 * i + 1], right[i]);
  }
}

TEST(ReadRows, SignedCodesAsUnsigned) {
  const Blocks blocks(DType::kQ8_0, 1, 32, {0});
  const std::vector<float> read = ReadRows(blocks.view, {.unsigned_codes = true}, 0, 1);
  std::uint16_t bits;
  std::memcpy(&bits, blocks.bytes.data(), sizeof bits);
  for (std::size_t i = 0; i < 32; ++i)
    EXPECT_FLOAT_EQ(read[i], HalfToFloat(bits) * static_cast<float>(std::to_integer<int>(blocks.bytes[2 + i])));
}

TEST(ReadRows, BytesOfAnotherType) {
  const std::vector<std::uint16_t> bits = {FloatToBFloat(1.0F), FloatToBFloat(-0.25F)};
  const TensorView view{.name = "w", .dtype = DType::kBF16, .shape = {1, 2}, .bytes = std::as_bytes(std::span(bits))};
  EXPECT_EQ(ReadRows(view, {.bytes_as = DType::kF16}, 0, 1),
            (std::vector<float>{HalfToFloat(bits[0]), HalfToFloat(bits[1])}));
  // A type of another size cannot be meant.
  EXPECT_EQ(ReadRows(view, {.bytes_as = DType::kF32}, 0, 1), (std::vector<float>{1.0F, -0.25F}));
}

TEST(RoundToE4M3, KeepsWhatItHoldsAndCutsAt448) {
  for (const double x : {0.0, 1.0, -1.125, 448.0, 0x1p-9, 240.0}) EXPECT_EQ(RoundToE4M3(x), x);
  EXPECT_EQ(RoundToE4M3(1000), 448);
  EXPECT_EQ(RoundToE4M3(1.0625), 1.0);   // halfway: to even
  EXPECT_EQ(RoundToE4M3(1.1875), 1.25);  // halfway: to even
}

}  // namespace
}  // namespace paritrace
