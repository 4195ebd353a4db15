#include "formats/npy.h"

#include <array>
#include <cstdio>
#include <numeric>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/decode.h"
#include "core/error.h"
#include "file_bytes.h"

namespace paritrace {
namespace {

using testing::FormatErrorOf;
using ::testing::HasSubstr;
using testing::InMemory;
using testing::NpyBytes;
using testing::Raw;

struct NpyCase {
  const char* name;
  std::string bytes;
  DType dtype;
  Shape shape;
  std::vector<double> values;
};
class NpyTest : public ::testing::TestWithParam<NpyCase> {};
TEST_P(NpyTest, ReadsTheValues) {
  const auto& row = GetParam();
  const TensorFile got = *TryReadNpy(InMemory(row.bytes, "dumps/q.npy"));
  EXPECT_EQ(got.format, "npy");
  ASSERT_EQ(got.tensors.size(), 1u);
  EXPECT_EQ(got.tensors[0].name, "q");
  EXPECT_EQ(got.tensors[0].dtype, row.dtype);
  EXPECT_EQ(got.tensors[0].shape, row.shape);
  EXPECT_EQ(DecodeAll(got.tensors[0]), row.values);
}
INSTANTIATE_TEST_SUITE_P(
    Table, NpyTest,
    ::testing::Values(
        NpyCase{"AsNumPyWrites",
                NpyBytes("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }   \n", Raw<float>({1, -2})),
                DType::kF32,
                {2, 1},
                {1, -2}},
        NpyCase{
            "KeysInAnyOrderOtherQuotes",
            NpyBytes("{\"shape\":(2,),'descr':\"<f2\",'fortran_order':False}", Raw<std::uint16_t>({0x3c00, 0xc000})),
            DType::kF16,
            {2},
            {1, -2}},
        NpyCase{"Scalar",
                NpyBytes("{'descr': '<f8', 'fortran_order': False, 'shape': ()}", Raw<double>({7})),
                DType::kF64,
                {},
                {7}},
        NpyCase{"LongSuffixOfPython2",
                NpyBytes("{'descr': '|u1', 'fortran_order': False, 'shape': (2L, 1L)}", Raw<std::uint8_t>({1, 255})),
                DType::kU8,
                {2, 1},
                {1, 255}},
        NpyCase{"BigEndian",
                NpyBytes("{'descr': '>f4', 'fortran_order': False, 'shape': (2,)}",
                         Raw<std::uint32_t>({0x0000803f, 0x000000c0})),
                DType::kF32,
                {2},
                {1, -2}},
        NpyCase{"BigEndianByteNeedsNoSwap",
                NpyBytes("{'descr': '>i1', 'fortran_order': False, 'shape': (1,)}", Raw<std::int8_t>({-5})),
                DType::kI8,
                {1},
                {-5}},
        NpyCase{
            "Fortran",
            NpyBytes("{'descr': '<i4', 'fortran_order': True, 'shape': (2, 3)}", Raw<std::int32_t>({1, 4, 2, 5, 3, 6})),
            DType::kI32,
            {2, 3},
            {1, 2, 3, 4, 5, 6}},
        NpyCase{"FortranThreeAxes",
                NpyBytes("{'descr': '<i2', 'fortran_order': True, 'shape': (2, 1, 3)}",
                         Raw<std::int16_t>({1, 4, 2, 5, 3, 6})),
                DType::kI16,
                {2, 1, 3},
                {1, 2, 3, 4, 5, 6}},
        NpyCase{"FortranBigEndian",
                NpyBytes("{'descr': '>u2', 'fortran_order': True, 'shape': (2, 2)}",
                         Raw<std::uint16_t>({0x0100, 0x0300, 0x0200, 0x0400})),
                DType::kU16,
                {2, 2},
                {1, 2, 3, 4}},
        NpyCase{"BFloatOfMlDTypes",
                NpyBytes("{'descr': '<V2', 'fortran_order': False, 'shape': (1,)}", Raw<std::uint16_t>({0x4040})),
                DType::kBF16,
                {1},
                {3}},
        NpyCase{"Bool",
                NpyBytes("{'descr': '|b1', 'fortran_order': False, 'shape': (2,)}", Raw<std::uint8_t>({1, 0})),
                DType::kBool,
                {2},
                {1, 0}},
        NpyCase{"Empty",
                NpyBytes("{'descr': '<f4', 'fortran_order': True, 'shape': (0, 5)}", ""),
                DType::kF32,
                {0, 5},
                {}}),
    [](const auto& row) { return row.param.name; });

TEST(Npy, ReadsVersion2AndLeavesOtherFilesToOthers) {
  const std::string header = "{'descr': '<i8', 'fortran_order': False, 'shape': (1,)}";
  const std::string bytes = testing::Bytes()
                                .Text("\x93NUMPY")
                                .Text(std::string_view("\x02\x00", 2))
                                .U32(header.size())
                                .Text(header)
                                .U64(9)
                                .str();
  EXPECT_EQ(DecodeAll(TryReadNpy(InMemory(bytes))->tensors[0]), std::vector<double>{9});
  EXPECT_FALSE(TryReadNpy(InMemory("\x93NUMP")));
}

struct MalformedCase {
  const char* name;
  std::string bytes;
  const char* message;
};
class MalformedNpy : public ::testing::TestWithParam<MalformedCase> {};
TEST_P(MalformedNpy, IsRefusedWithItsPlace) {
  const std::string message = FormatErrorOf([] { return TryReadNpy(InMemory(GetParam().bytes, "q.npy")); });
  EXPECT_THAT(message, HasSubstr("q.npy: "));
  EXPECT_THAT(message, HasSubstr(GetParam().message));
  EXPECT_EQ(message.find('\n'), std::string::npos) << "one line";
}
std::string WithShape(std::string_view shape) {
  return NpyBytes(fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': {}}}", shape), Raw<float>({1}));
}
INSTANTIATE_TEST_SUITE_P(
    Table, MalformedNpy,
    ::testing::Values(
        MalformedCase{"OnlyMagic", "\x93NUMPY", "1 bytes of version, found 0 bytes left"},
        MalformedCase{"Version9", "\x93NUMPY\x09\x01\x01\x01", "version 1, 2 or 3, found 9"},
        MalformedCase{"HeaderCut", testing::Bytes().Text("\x93NUMPY\x01").Zeros(1).U16(500).Text("{'descr'").str(),
                      "500 bytes of header, found 8 bytes left"},
        MalformedCase{"NoDict", NpyBytes("descr", ""), "header, its byte 0: expected '{', found \"descr\""},
        MalformedCase{"DictNotClosed", NpyBytes("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)", ""),
                      "expected '}', found its end"},
        MalformedCase{"StringNotClosed", NpyBytes("{'descr", ""), "a closing quote"},
        MalformedCase{"TextAfterTheDict",
                      NpyBytes("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} 7", Raw<float>({1})),
                      "the header to end, found \"7\""},
        MalformedCase{"KeyMissing", NpyBytes("{'descr': '<f4', 'shape': (1,)}", Raw<float>({1})),
                      "descr, fortran_order and shape"},
        MalformedCase{"KeyTwice", NpyBytes("{'descr': '<f4', 'descr': '<f8'}", ""), "once, found \"descr\""},
        MalformedCase{"KeyUnknown", NpyBytes("{'a\nb': 1}", ""), "found \"a\\nb\""},
        MalformedCase{"OrderNoBool", NpyBytes("{'fortran_order': 1}", ""), "True or False, found \"1"},
        MalformedCase{"ShapeNegative", WithShape("(-1,)"), "a size, found \"-1"},
        MalformedCase{"ShapeHugeNumber", WithShape("(99999999999999999999,)"), "a size below 2^63"},
        // The product wraps to 0 in 64 bits.
        MalformedCase{"ShapeOverflows", WithShape("(4294967296, 4294967296)"), "a shape that fits in memory"},
        MalformedCase{"ManyAxes", WithShape(fmt::format("({})", fmt::join(std::vector<int>(70, 1), ","))),
                      "at most 64 axes"},
        MalformedCase{"TooFewBytes", WithShape("(2,)"), "8 bytes of data (f32 [2]), found 4"},
        MalformedCase{"TooManyBytes", WithShape("(0,)"), "0 bytes of data (f32 [0]), found 4"},
        MalformedCase{"Objects", NpyBytes("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", ""),
                      "plain numbers such as '<f4', found \"|O\""},
        MalformedCase{"Complex", NpyBytes("{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}", Raw<double>({1})),
                      "plain numbers"},
        MalformedCase{"Records", NpyBytes("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", ""),
                      "a string, found \"[('a'"}),
    [](const auto& row) { return row.param.name; });

TEST(Npy, WrittenFilesReadBack) {
  const std::string path = ::testing::TempDir() + "npy_test.npy";
  std::vector<float> values(24);
  std::iota(values.begin(), values.end(), -3.0f);
  for (const Shape& shape : {Shape{24}, Shape{2, 3, 4}, Shape{24, 1}}) {
    WriteNpy(path, shape, values);
    const TensorFile got = OpenTensorFile(path);
    EXPECT_EQ(got.tensors[0].shape, shape);
    EXPECT_EQ(DecodeAll(got.tensors[0]), std::vector<double>(values.begin(), values.end()));
  }
  const std::array<double, 1> one = {0.1};
  WriteNpy(path, {}, one);
  EXPECT_EQ(DecodeAll(OpenTensorFile(path).tensors[0]), std::vector<double>{0.1});
  std::remove(path.c_str());
}

}  // namespace
}  // namespace paritrace
