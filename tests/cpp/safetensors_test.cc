#include "formats/safetensors.h"

#include <array>
#include <cstdio>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/decode.h"
#include "core/error.h"
#include "core/text.h"
#include "file_bytes.h"

namespace paritrace {
namespace {

using testing::FormatErrorOf;
using ::testing::HasSubstr;
using testing::InMemory;
using testing::SafetensorsBytes;

std::string Repeat(std::string_view text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

TEST(Safetensors, ReadsTensorsWhereTheyLie) {
  const auto file = InMemory(SafetensorsBytes(
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]},)"
      R"("a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"none":{"dtype":"F16","shape":[0,4],"data_offsets":[8,8]},)"
      R"("scalar":{"dtype":"I8","shape":[],"data_offsets":[14,15]}}   )",
      15));
  const TensorFile got = *TryReadSafetensors(file);
  EXPECT_EQ(got.format, "safetensors");
  EXPECT_EQ(got.metadata.dump(), R"({"format":"pt"})");
  ASSERT_EQ(got.tensors.size(), 4u);
  EXPECT_EQ(got.tensors[0].name, "b");
  EXPECT_EQ(got.tensors[0].dtype, DType::kBF16);
  EXPECT_EQ(got.Find("a")->shape, (Shape{2, 1}));
  EXPECT_EQ(got.Find("a")->bytes.data() + 8, got.tensors[0].bytes.data());
  EXPECT_EQ(got.Find("none")->size(), 0);
  EXPECT_EQ(got.Find("scalar")->size(), 1);
  EXPECT_EQ(got.Find("missing"), nullptr);
}

TEST(Safetensors, LeavesOtherFilesToOthers) {
  EXPECT_FALSE(TryReadSafetensors(InMemory("")));
  EXPECT_FALSE(TryReadSafetensors(InMemory("12345678")));
  EXPECT_FALSE(TryReadSafetensors(InMemory("GGUF\3\0\0\0\0\0\0\0")));
}

struct SafetensorsCase {
  const char* name;
  std::string bytes;
  const char* message;
};
class MalformedSafetensors : public ::testing::TestWithParam<SafetensorsCase> {};
TEST_P(MalformedSafetensors, IsRefusedWithItsPlace) {
  const std::string message =
      FormatErrorOf([] { return TryReadSafetensors(InMemory(GetParam().bytes, "w.safetensors")); });
  EXPECT_THAT(message, HasSubstr("w.safetensors: "));
  EXPECT_THAT(message, HasSubstr(GetParam().message));
  EXPECT_EQ(message.find('\n'), std::string::npos) << "one line";
}
INSTANTIATE_TEST_SUITE_P(
    Table, MalformedSafetensors,
    ::testing::Values(
        SafetensorsCase{"HeaderLongerThanFile", testing::Bytes().U64(99).Text("{}").str(),
                        "expected 99 bytes of header, found 2 bytes left"},
        // Would wrap a sum of offset and length.
        SafetensorsCase{"HeaderLengthHuge", testing::Bytes().U64(~0ull - 7).Text("{}").str(),
                        "a header of at most 100000000 bytes"},
        SafetensorsCase{"NotJson", SafetensorsBytes("{\"a\":", 0), "header: expected valid JSON"},
        SafetensorsCase{"DeepJson", SafetensorsBytes(Repeat("{\"a\":", 100'000), 0), "at most 3 levels deep"},
        SafetensorsCase{
            "NameTwice",
            SafetensorsBytes(
                R"({"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}})",
                1),
            "each key once, found \"a\" twice"},
        SafetensorsCase{"EntryNoObject", SafetensorsBytes(R"({"a":7})", 0),
                        "tensor \"a\": expected an object, found 7"},
        SafetensorsCase{"NoDType", SafetensorsBytes(R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1),
                        "expected \"dtype\", found no such key"},
        SafetensorsCase{"UnknownDType",
                        SafetensorsBytes(R"({"a":{"dtype":"F33","shape":[1],"data_offsets":[0,1]}})", 1),
                        "a dtype such as \"F32\", found \"F33\""},
        SafetensorsCase{"DTypeNumber", SafetensorsBytes(R"({"a":{"dtype":3,"shape":[1],"data_offsets":[0,1]}})", 1),
                        "a dtype such as \"F32\", found 3"},
        SafetensorsCase{"ShapeNoList", SafetensorsBytes(R"({"a":{"dtype":"I8","shape":1,"data_offsets":[0,1]}})", 1),
                        "a list as \"shape\", found 1"},
        SafetensorsCase{"ShapeNegative",
                        SafetensorsBytes(R"({"a":{"dtype":"I8","shape":[-1],"data_offsets":[0,1]}})", 1),
                        "a size in \"shape\", found -1"},
        SafetensorsCase{"ShapeFraction",
                        SafetensorsBytes(R"({"a":{"dtype":"I8","shape":[1.0],"data_offsets":[0,1]}})", 1),
                        "a size in \"shape\", found 1.0"},
        SafetensorsCase{
            "ShapeOverflows",
            SafetensorsBytes(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0),
            "a shape that fits in memory"},
        SafetensorsCase{
            "ShapeBeyondInt64",
            SafetensorsBytes(R"({"a":{"dtype":"I8","shape":[18446744073709551615],"data_offsets":[0,1]}})", 1),
            "a size in \"shape\""},
        SafetensorsCase{"OffsetsTooShort",
                        SafetensorsBytes(R"({"a":{"dtype":"I8","shape":[1],"data_offsets":[0]}})", 1),
                        "[begin, end] as \"data_offsets\", found an array"},
        SafetensorsCase{"OffsetsBackwards",
                        SafetensorsBytes(R"({"a":{"dtype":"I8","shape":[1],"data_offsets":[1,0]}})", 1),
                        "1 bytes between its data_offsets, found [1, 0]"},
        SafetensorsCase{"SizeDisagrees",
                        SafetensorsBytes(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4),
                        "8 bytes between its data_offsets, found [0, 4]"},
        SafetensorsCase{"BeyondTheFile",
                        SafetensorsBytes(R"({"a":{"dtype":"I8","shape":[8],"data_offsets":[0,8]}})", 7),
                        "data_offsets within 7 bytes of data, found [0, 8]"},
        SafetensorsCase{
            "Overlap",
            SafetensorsBytes(
                R"({"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"I8","shape":[4],"data_offsets":[2,6]}})",
                6),
            "tensor \"b\": expected data to begin at 4, where the one before ends, found 2"},
        SafetensorsCase{
            "Hole",
            SafetensorsBytes(
                R"({"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"I8","shape":[1],"data_offsets":[2,3]}})",
                3),
            "tensor \"b\": expected data to begin at 1"},
        SafetensorsCase{"BytesNobodyClaims",
                        SafetensorsBytes(R"({"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}})", 2),
                        "tensors that cover all 2 bytes of data, found 1 bytes covered"},
        SafetensorsCase{"MetadataNumber", SafetensorsBytes(R"({"__metadata__":{"k":1}})", 0),
                        "__metadata__: expected a string as \"k\", found 1"},
        SafetensorsCase{"MetadataList", SafetensorsBytes(R"({"__metadata__":[]})", 0),
                        "__metadata__: expected an object, found an array"},
        SafetensorsCase{"NameThatBreaksTheLine", SafetensorsBytes(R"({"a\nb\u001b[31m":7})", 0),
                        "tensor \"a\\nb\\x1b[31m\""}),
    [](const auto& row) { return row.param.name; });

TEST(Safetensors, TrailingBytesAreForOpenTracesOnly) {
  const auto file = InMemory(SafetensorsBytes(R"({"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}})", 9));
  EXPECT_EQ(TryReadSafetensors(file, {.unfinished = true})->tensors.size(), 1u);
}

TEST(Safetensors, WrittenFilesReadBack) {
  const std::string path = ::testing::TempDir() + "safetensors_test.safetensors";
  const std::array<float, 3> values = {1, -2, 3};
  const std::array<std::byte, 1> flag = {std::byte{1}};
  const std::vector<TensorView> tensors = {{"layers.0.\"q\"\n", DType::kF32, {3}, std::as_bytes(std::span(values))},
                                           {"flag", DType::kBool, {}, flag},
                                           {"empty", DType::kI64, {0}, {}}};
  WriteSafetensors(path, tensors, {{"paritrace", "{}"}});
  const TensorFile got = OpenTensorFile(path);
  EXPECT_EQ(got.format, "safetensors");
  EXPECT_EQ(got.metadata["paritrace"], "{}");
  ASSERT_EQ(got.tensors.size(), 3u);
  EXPECT_EQ(got.tensors[0].name, "layers.0.\"q\"\n");
  EXPECT_EQ(DecodeAll(got.tensors[0]), (std::vector<double>{1, -2, 3}));
  EXPECT_EQ(got.tensors[1].shape, Shape{});
  EXPECT_EQ((got.tensors[0].bytes.data() - got.files[0]->bytes().data()) % 8, 0) << "data starts aligned";
  std::remove(path.c_str());
}

TEST(Safetensors, RefusesToWriteWhatTheFormatLacks) {
  const std::array<std::byte, 34> block{};
  const std::vector<TensorView> quantised = {{"w", DType::kQ8_0, {32}, block}};
  EXPECT_THROW(WriteSafetensors(::testing::TempDir() + "never", quantised), UsageError);
  const std::vector<TensorView> twice = {{"w", DType::kI8, {0}, {}}, {"w", DType::kI8, {0}, {}}};
  EXPECT_THROW(WriteSafetensors(::testing::TempDir() + "never", twice), UsageError);
  EXPECT_THROW(WriteSafetensors("/nonexistent/folder/x.safetensors", {}), UsageError);
}

TEST(Quoted, KeepsALineALine) {
  EXPECT_EQ(Quoted("a\nb\"c\\\x1b\xff"
                   "é"),
            "\"a\\nb\\\"c\\\\\\x1b\\xffé\"");
  EXPECT_EQ(Quoted(std::string(200, 'x'), 3), "\"xxx…\"");
  EXPECT_EQ(Quoted("\xc2\x9b"), "\"\\xc2\\x9b\"") << "a C1 control character";
}

}  // namespace
}  // namespace paritrace
