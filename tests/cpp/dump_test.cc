// Readers of other programs' dumps: what a broken one is told, and the parts that need no whole program to be tested.
#include "formats/dump.h"

#include <cmath>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/blake3_hash.h"
#include "core/error.h"
#include "formats/printed_values.h"
#include "formats/raw.h"

namespace paritrace {
namespace {

using ::testing::HasSubstr;

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

std::optional<Dump> Read(const std::string& text) {
  return ReadDump(std::make_shared<MemoryFile>("dump", Bytes(text)), "");
}

struct BrokenCase {
  const char* name;
  std::string text;
  const char* message;
};

class BrokenDump : public ::testing::TestWithParam<BrokenCase> {};

TEST_P(BrokenDump, IsToldInOneLine) {
  try {
    (void)Read(GetParam().text);
    FAIL() << "no error";
  } catch (const FormatError& error) {
    EXPECT_THAT(error.what(), HasSubstr(GetParam().message));
    EXPECT_THAT(error.what(), HasSubstr("dump: "));
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
  }
}

std::string Record(const std::string& shape, const std::string& count, const std::string& hash = std::string(64, '0')) {
  return R"({"name":"t0/blk0/q_proj","shape":)" + shape + R"(,"dtype":"F32","blake3":")" + hash +
         R"(","rms":1,"num_elements":)" + count + "}";
}

std::string Node(const std::string& extents, const std::string& print) {
  return "ggml_debug: embd = (f32) GET_ROWS(a{1, 1, 1, 1}, b{2, 1, 1, 1}}) = {" + extents + "}\n" + print;
}

std::string Tree(const std::string& shape, const std::string& value) {
  return R"({"module_path":"M","children":[{"module_path":"M.a","outputs":{"shape":")" + shape +
         R"(","dtype":"torch.float32","value":)" + value + "}}]}";
}

INSTANTIATE_TEST_SUITE_P(
    Table, BrokenDump,
    ::testing::Values(
        BrokenCase{"ShapeOverflows", Record("[4611686018427387904, 4]", "0"), "a shape that fits in memory"},
        BrokenCase{"ManyAxes", Record("[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "1"),
                   "32 axes"},
        BrokenCase{"OtherCount", Record("[2, 3]", "7"), "\"num_elements\" 6"},
        BrokenCase{"NegativeSize", Record("[-1]", "1"), "a count as \"shape\""},
        BrokenCase{"ShortHash", Record("[1]", "1", "abc"), "64 lower-case hex digits"},
        BrokenCase{"ValuesBeyondTheShape", Node("2, 1, 1, 1", "[[[1, 2, 3]]]\nsum = 6\n"), "2 entries"},
        BrokenCase{"NothingLeftOut", Node("2, 1, 1, 1", "[[[1, ..., 2]]]\nsum = 3\n"), "fewer than 2"},
        BrokenCase{"TwoEllipses", Node("9, 1, 1, 1", "[[[1, ..., 2, ..., 3]]]\nsum = 3\n"), "one ..."},
        BrokenCase{"DeeperThanTheShape", Node("1, 1, 1, 1", "[[[[1]]]]\nsum = 1\n"), "deeper"},
        BrokenCase{"WordsForNumbers", Node("1, 1, 1, 1", "[[[x]]]\nsum = 1\n"), "a number"},
        BrokenCase{"NoEnd", Node("2, 1, 1, 1", "[[[1, 2"), "a closing bracket"},
        BrokenCase{"ThreeExtents", Node("2, 1, 1", ""), "4 sizes"},
        BrokenCase{"OtherSize", Tree("[2]", "[\"tensor([1., 2.])\"]"), "torch.Size"},
        BrokenCase{"PrintOfAnotherShape", Tree("torch.Size([3])", "[\"tensor([1., 2.])\"]"), "3 entries"},
        BrokenCase{"Deep", std::string(100'000, '['), "levels deep"}),
    [](const auto& row) { return row.param.name; });

TEST(DumpTest, WhatIsNoDumpIsLeftToOthers) {
  EXPECT_FALSE(Read(""));
  EXPECT_FALSE(Read("plain text"));
  EXPECT_FALSE(Read("{\"weights\": {}}"));
  EXPECT_FALSE(Read(std::string("{\0\0\0\0\0\0\0{}", 10)));  // a safetensors header of 123 bytes
}

TEST(DumpTest, EvalCallbackNamesNodesAsTheAdapterDoes) {
  const auto dump = Read(
      Node("2, 1, 1, 1", "[[[1, 2]]]\nsum = 3\n") +
      "common_debug_cb_eval: norm-0 = (f32) ADD(node_3{2, 1, 1, 1}, blk.0.attn_q.bias{2, 1, 1, 1}}) = {2, 1, 1, 1}\n"
      "[[[1.50, -2]]]\nsum = 3.000000\n" +
      Node("2, 1, 1, 1", "[[[1, 2]]]\nsum = 3\n"));
  ASSERT_TRUE(dump);
  ASSERT_EQ(dump->records.size(), 3u);
  EXPECT_EQ(dump->records[0].name, "embd:GET_ROWS");
  EXPECT_EQ(dump->records[1].name, "blk.0.attn_q.bias:ADD");
  EXPECT_EQ(dump->records[2].step, 1);  // the graph began again
  const Evidence& evidence = *dump->records[1].evidence;
  ASSERT_EQ(evidence.values.size(), 2u);
  EXPECT_DOUBLE_EQ(evidence.values[0].uncertainty, 0.005);
  EXPECT_DOUBLE_EQ(evidence.values[1].uncertainty, 0.5);
  ASSERT_EQ(evidence.statistics.size(), 1u);
  EXPECT_DOUBLE_EQ(evidence.statistics[0].value, 3);
}

TEST(DumpTest, EllipsesCountFromTheBack) {
  const std::string file = "f";
  const auto values =
      ParsePrintedValues("tensor([[1., 2., ..., 9.],\n ...,\n [3., 4., ..., 8.]])", {10, 100}, false, file, "p");
  std::vector<std::int64_t> indices;
  for (const PrintedValue& value : values) indices.push_back(value.index);
  EXPECT_THAT(indices, ::testing::ElementsAre(0, 1, 99, 900, 901, 999));
}

struct NumberCase {
  const char* name;
  const char* text;
  double value, uncertainty;
};
class PrintedNumberTest : public ::testing::TestWithParam<NumberCase> {};
TEST_P(PrintedNumberTest, CarriesItsPrintsRounding) {
  const auto number = ParsePrintedNumber(GetParam().text);
  ASSERT_TRUE(number);
  if (std::isnan(GetParam().value)) {
    EXPECT_TRUE(std::isnan(number->value));
  } else {
    EXPECT_DOUBLE_EQ(number->value, GetParam().value);
  }
  EXPECT_DOUBLE_EQ(number->uncertainty, GetParam().uncertainty);
}
INSTANTIATE_TEST_SUITE_P(Table, PrintedNumberTest,
                         ::testing::Values(NumberCase{"FourDecimals", "-0.1636", -0.1636, 5e-5},
                                           NumberCase{"Exponent", "1.6355e-01", 0.16355, 5e-6},
                                           NumberCase{"PlusExponent", "1.6e+02", 160, 5},
                                           NumberCase{"Point", "2.", 2, 0.5},
                                           NumberCase{"Infinite", "-inf", -INFINITY, 0},
                                           NumberCase{"NotANumber", "nan", NAN, 0}, NumberCase{"True", "True", 1, 0}),
                         [](const auto& row) { return row.param.name; });

TEST(PrintedNumberTest, WordsAreNoNumbers) {
  for (const char* text : {"", "x", "1.0x", "1e999", "--1", "..."}) EXPECT_FALSE(ParsePrintedNumber(text)) << text;
}

TEST(RawTest, SpecNamesDtypeAndShape) {
  const auto spec = ParseRawSpec("C:/x/q.bin:bf16:10x64");
  ASSERT_TRUE(spec);
  EXPECT_EQ(spec->path, "C:/x/q.bin");
  EXPECT_EQ(spec->dtype, DType::kBF16);
  EXPECT_EQ(spec->shape, (Shape{10, 64}));
  for (const char* text : {"q.bin", "q.bin:f32", "q.bin:f32:", "q.bin:f33:2", "q.bin:f32:2x", "q.bin:f32:-2", ":f32:2"})
    EXPECT_FALSE(ParseRawSpec(text)) << text;
}

// The official test vector of no input, and BitNet-rs's way: the values as f32, whatever the dtype.
TEST(Blake3Test, HashesValuesAsF32) {
  EXPECT_EQ(Blake3OfValues({"x", DType::kF32, {0}, {}}),
            "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
  const std::vector<float> wide = {1, -2.5f, 0};
  const std::vector<std::uint16_t> narrow = {0x3f80, 0xc020, 0};
  EXPECT_EQ(Blake3OfValues({"x", DType::kF32, {3}, std::as_bytes(std::span(wide))}),
            Blake3OfValues({"x", DType::kBF16, {3}, std::as_bytes(std::span(narrow))}));
}

}  // namespace
}  // namespace paritrace
