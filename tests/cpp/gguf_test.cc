#include "formats/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/decode.h"
#include "core/error.h"
#include "file_bytes.h"

namespace paritrace {
namespace {

using testing::Bytes;
using testing::FormatErrorOf;
using testing::GgufBuilder;
using ::testing::HasSubstr;
using testing::InMemory;
using testing::Raw;

constexpr std::uint32_t kU8 = 0, kI8 = 1, kU16 = 2, kI16 = 3, kU32 = 4, kI32 = 5, kF32Value = 6, kBool = 7, kString = 8,
                        kArray = 9, kU64 = 10, kI64 = 11, kF64Value = 12;
constexpr std::uint32_t kF32 = 0, kF16 = 1, kQ8_0 = 8, kIQ1_S = 19;

std::string Str(std::string_view text) { return Bytes().U64(text.size()).Text(text).str(); }

TEST(Gguf, ReadsMetadataOfEveryType) {
  const auto file =
      InMemory(GgufBuilder()
                   .Key("u8", kU8, Raw<std::uint8_t>({200}))
                   .Key("i8", kI8, Raw<std::int8_t>({-3}))
                   .Key("u16", kU16, Raw<std::uint16_t>({65535}))
                   .Key("i16", kI16, Raw<std::int16_t>({-2}))
                   .Key("u32", kU32, Raw<std::uint32_t>({4000000000}))
                   .Key("i32", kI32, Raw<std::int32_t>({-7}))
                   .Key("f32", kF32Value, Raw<float>({0.5f}))
                   .Key("bool", kBool, Raw<std::uint8_t>({1}))
                   .Key("string", kString, Str("llama"))
                   .Key("u64", kU64, Raw<std::uint64_t>({1ull << 63}))
                   .Key("i64", kI64, Raw<std::int64_t>({-9}))
                   .Key("f64", kF64Value, Raw<double>({0.1}))
                   .Key("strings", kArray, Bytes().U32(kString).U64(2).Text(Str("<s>")).Text(Str("")).str())
                   .Key("none", kArray, Bytes().U32(kI32).U64(0).str())
                   .str());
  EXPECT_EQ(
      TryReadGguf(file)->metadata.dump(),
      R"({"u8":200,"i8":-3,"u16":65535,"i16":-2,"u32":4000000000,"i32":-7,"f32":0.5,"bool":true,"string":"llama",)"
      R"("u64":9223372036854775808,"i64":-9,"f64":0.1,"strings":["<s>",""],"none":[]})");
}

TEST(Gguf, ShapesAreRowMajorAndDataAligned) {
  for (const std::uint32_t version : {2u, 3u}) {
    for (const std::size_t alignment : {32u, 64u}) {
      const auto file =
          InMemory(GgufBuilder()
                       .Version(version)
                       .Alignment(alignment)
                       .Key("general.alignment", kU32, Raw<std::uint32_t>({static_cast<std::uint32_t>(alignment)}))
                       .Tensor("w", {2, 3}, kF32, alignment)
                       .Tensor("b", {4}, kF16, 0)
                       .Tensor("scalar", {}, kF32, 3 * alignment)
                       .Data(Raw<std::uint16_t>({0x3c00, 0, 0, 0xc000}) + std::string(alignment - 8, '\0') +
                             Raw<float>({1, 2, 3, 4, 5, 6}) + std::string(2 * alignment - 24, '\0') + Raw<float>({9}))
                       .str());
      const TensorFile got = *TryReadGguf(file);
      EXPECT_EQ(got.format, "gguf");
      EXPECT_EQ(got.Find("w")->shape, (Shape{3, 2}));
      EXPECT_EQ(DecodeAll(*got.Find("w")), (std::vector<double>{1, 2, 3, 4, 5, 6}));
      EXPECT_EQ(DecodeAll(*got.Find("b")), (std::vector<double>{1, 0, 0, -2}));
      EXPECT_EQ(DecodeAll(*got.Find("scalar")), std::vector<double>{9});
    }
  }
}

TEST(Gguf, ListsTypesThatNothingDecodes) {
  const auto file = InMemory(GgufBuilder().Tensor("w", {256, 2}, kIQ1_S, 0).Data(std::string(100, '\0')).str());
  EXPECT_EQ(Name(TryReadGguf(file)->tensors[0].dtype), "iq1_s");
}

TEST(Gguf, ReadsAFileWithoutTensors) { EXPECT_TRUE(TryReadGguf(InMemory(GgufBuilder().str()))->tensors.empty()); }

TEST(Gguf, LeavesOtherFilesToOthers) { EXPECT_FALSE(TryReadGguf(InMemory("GGU"))); }

TEST(Gguf, EveryTypeOfGgmlHasADType) {
  for (std::uint32_t type = 0; type <= 41; ++type) {
    const bool removed = type == 4 || type == 5 || (type >= 31 && type <= 33) || type == 37 || type == 38;
    EXPECT_EQ(DTypeOfGgmlType(type).has_value(), !removed) << type;
  }
  EXPECT_FALSE(DTypeOfGgmlType(42));
}

struct GgufCase {
  const char* name;
  std::string bytes;
  const char* message;
};
class MalformedGguf : public ::testing::TestWithParam<GgufCase> {};
TEST_P(MalformedGguf, IsRefusedWithItsPlace) {
  const std::string message = FormatErrorOf([] { return TryReadGguf(InMemory(GetParam().bytes, "w.gguf")); });
  EXPECT_THAT(message, HasSubstr("w.gguf: "));
  EXPECT_THAT(message, HasSubstr(GetParam().message));
  EXPECT_EQ(message.find('\n'), std::string::npos) << "one line";
}
const std::string kFour = Raw<float>({1, 2, 3, 4});
INSTANTIATE_TEST_SUITE_P(
    Table, MalformedGguf,
    ::testing::Values(
        GgufCase{"OnlyMagic", "GGUF", "4 bytes of version, found 0 bytes left"},
        GgufCase{"Version1", GgufBuilder().Version(1).str(), "at byte 4: expected version 2 or 3, found 1"},
        GgufCase{"BigEndian", GgufBuilder().Version(0x03000000).str(), "found a big-endian file"},
        // Counts are claims: none of them may reserve memory or start a loop that long.
        GgufCase{"KeyCountHuge", GgufBuilder().ClaimKeys(1ull << 60).str(),
                 "no more metadata keys than 0 bytes can hold, found 1152921504606846976"},
        GgufCase{"TensorCountHuge", GgufBuilder().ClaimTensors(~0ull).str(),
                 "no more tensors than 0 bytes can hold, found 18446744073709551615"},
        GgufCase{"ArrayCountHuge", GgufBuilder().Key("a", kArray, Bytes().U32(kU64).U64(1ull << 61).str()).str(),
                 "no more array values than 0 bytes can hold"},
        GgufCase{"StringLengthHuge", GgufBuilder().Key("a", kString, Bytes().U64(~0ull).str()).str(),
                 "18446744073709551615 bytes of metadata string, found 0 bytes left"},
        GgufCase{"KeyLengthHuge", Bytes().Text("GGUF").U32(3).U64(0).U64(1).U64(1ull << 40).Zeros(30).str(),
                 "1099511627776 bytes of metadata key"},
        // A byte in the file is sixteen in memory.
        GgufCase{"MoreValuesThanAllowed",
                 GgufBuilder().Key("a", kArray, Bytes().U32(kU8).U64((1u << 24) + 1).Zeros((1u << 24) + 1).str()).str(),
                 "at most 16777216 metadata values"},
        GgufCase{"ArrayInArray",
                 GgufBuilder().Key("a", kArray, Bytes().U32(kArray).U64(1).U32(kU8).U64(1).Zeros(1).str()).str(),
                 "no array in an array, found 9"},
        GgufCase{"UnknownValueType", GgufBuilder().Key("a", 13, "\1").str(), "a metadata type from 0 to 12"},
        GgufCase{"KeyTwice", GgufBuilder().Key("a", kU8, "\1").Key("a", kU8, "\2").str(),
                 "each metadata key once, found \"a\" twice"},
        GgufCase{"AlignmentZero", GgufBuilder().Key("general.alignment", kU32, Raw<std::uint32_t>({0})).str(),
                 "general.alignment: expected a power of two, found 0"},
        GgufCase{"AlignmentText", GgufBuilder().Key("general.alignment", kString, Str("x\xff")).str(),
                 "expected a power of two, found \"x"},
        GgufCase{"NameTwice",
                 GgufBuilder().Tensor("t", {4}, kF32, 0).Tensor("t", {4}, kF32, 32).Data(std::string(48, '\0')).str(),
                 "each tensor once, found \"t\" twice"},
        GgufCase{"ManyAxes", GgufBuilder().Tensor("t", {1, 1, 1, 1, 1}, kF32, 0).Data(kFour).str(),
                 "at most 4 axes, found 5"},
        GgufCase{"UnknownType", GgufBuilder().Tensor("t", {4}, 999, 0).Data(kFour).str(),
                 "tensor \"t\": expected a ggml type that still exists, found 999"},
        GgufCase{"ShapeOverflows", GgufBuilder().Tensor("t", {1ull << 32, 1ull << 32}, kF32, 0).Data(kFour).str(),
                 "that fits in memory, found [4294967296, 4294967296]"},
        GgufCase{"ShapeNegative", GgufBuilder().Tensor("t", {~0ull}, kF32, 0).Data(kFour).str(),
                 "that fits in memory, found [-1]"},
        GgufCase{"BlockCut", GgufBuilder().Tensor("t", {33}, kQ8_0, 0).Data(std::string(68, '\0')).str(),
                 "a shape of whole q8_0 blocks"},
        GgufCase{"OffsetUnaligned", GgufBuilder().Tensor("t", {1}, kF32, 4).Data(kFour).str(),
                 "an offset that is a multiple of 32, found 4"},
        // Would wrap when the size is added.
        GgufCase{"OffsetHuge", GgufBuilder().Tensor("t", {4}, kF32, ~0ull - 31).Data(kFour).str(),
                 "16 bytes (f32 [4]) at offset 18446744073709551584 of the data, found 16 bytes of data"},
        GgufCase{"DataCut", GgufBuilder().Tensor("t", {5}, kF32, 0).Data(kFour).str(),
                 "20 bytes (f32 [5]) at offset 0 of the data, found 16 bytes of data"},
        GgufCase{"NoDataAtAll", GgufBuilder().Tensor("t", {5}, kF32, 0).str(), "padding before the data"},
        GgufCase{"Overlap",
                 GgufBuilder().Tensor("a", {16}, kF32, 0).Tensor("b", {4}, kF32, 32).Data(std::string(64, '\0')).str(),
                 "tensor \"b\": expected data of its own, found bytes of \"a\""}),
    [](const auto& row) { return row.param.name; });

}  // namespace
}  // namespace paritrace
