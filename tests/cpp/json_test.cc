#include "formats/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "file_bytes.h"

namespace paritrace {
namespace {

using ::testing::HasSubstr;

nlohmann::ordered_json Parse(std::string_view text) { return ParseJson(text, "trace.json", "header"); }

TEST(ParseJson, KeepsOrderAndTypes) {
  const auto value = Parse(R"({"z":[1,-2,0.5,null,true],"a":{"text":"ü"},"big":18446744073709551615})");
  EXPECT_EQ(value.dump(), R"({"z":[1,-2,0.5,null,true],"a":{"text":"ü"},"big":18446744073709551615})");
  EXPECT_TRUE(value["z"][0].is_number_unsigned());
  EXPECT_EQ(Parse("[]").dump(), "[]");
  EXPECT_EQ(Parse(" 7 ").get<int>(), 7);
}

struct JsonCase {
  const char* name;
  std::string text;
  const char* message;
};
class MalformedJson : public ::testing::TestWithParam<JsonCase> {};
TEST_P(MalformedJson, IsRefusedWithItsPlace) {
  const std::string message = paritrace::testing::FormatErrorOf([] { return Parse(GetParam().text); });
  EXPECT_THAT(message, HasSubstr("trace.json: header: expected "));
  EXPECT_THAT(message, HasSubstr(GetParam().message));
  EXPECT_EQ(message.find('\n'), std::string::npos) << "one line";
}
INSTANTIATE_TEST_SUITE_P(
    Table, MalformedJson,
    ::testing::Values(JsonCase{"Empty", "", "valid JSON"}, JsonCase{"TextAfterTheValue", "{} {}", "at its byte 4"},
                      JsonCase{"Cut", R"({"a":[1,)", "at its byte 9"}, JsonCase{"NaN", R"({"a":NaN})", "valid JSON"},
                      JsonCase{"NumberTooLarge", "1e999", "valid JSON"},
                      JsonCase{"InvalidUtf8", "\"\xff\"", "valid JSON, found \"\\\"\\xff\""},
                      JsonCase{"NewlineInToken", "\"a\nb\"", "<U+000A>"},
                      JsonCase{"KeyTwice", R"({"a":1,"b":{"a":1},"a":2})", "each key once, found \"a\" twice"},
                      // Deep enough to overflow the stack of a parser or destructor that recurses.
                      JsonCase{"DeepArrays", std::string(100'000, '['), "at most 64 levels deep"},
                      JsonCase{"DeepObjects",
                               [] {
                                 std::string text;
                                 for (int i = 0; i < 100'000; ++i) text += "{\"a\":";
                                 return text;
                               }(),
                               "at most 64 levels deep"}),
    [](const auto& row) { return row.param.name; });

TEST(ParseJson, ManyKeysTakeLinearTime) {
  std::string text = "{";
  for (int i = 0; i < 300'000; ++i) text += "\"key" + std::to_string(i) + "\":0,";
  text.back() = '}';
  EXPECT_EQ(Parse(text).size(), 300'000u);  // quadratic: minutes
}

TEST(Describe, NamesTheValueInOneLine) {
  EXPECT_EQ(Describe(nlohmann::ordered_json::parse("{\"a\":1}")), "an object");
  EXPECT_EQ(Describe(nlohmann::ordered_json::parse("[1]")), "an array");
  EXPECT_EQ(Describe("a\nb"), "\"a\\nb\"");
  EXPECT_EQ(Describe(-3), "-3");
  EXPECT_EQ(Describe(nullptr), "null");
}

}  // namespace
}  // namespace paritrace
