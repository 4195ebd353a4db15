#include "report/page.h"

#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace paritrace {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::string_view kTemplate =
    "<title>{{paritrace:title}}</title>{{paritrace:sentence}}<script "
    "type=\"application/json\">\"{{paritrace:data}}\"</script>";

// What stands between the script's tags, as a browser would read it.
nlohmann::json DataOf(const std::string& page) {
  const std::string_view open = "<script type=\"application/json\">";
  const std::size_t begin = page.find(open) + open.size();
  return nlohmann::json::parse(page.substr(begin, page.find("</script", begin) - begin));
}

TEST(Page, HoldsTheResultWhateverItsTexts) {
  const std::string evil = "</script><!--<script>\"\\\xff\xe2\x80\xa8{{paritrace:data}}";
  Document document{.title = "paritrace diff", .tone = Tone::kOdd, .sentence = evil};
  document.facts = {{"fact", evil}};
  const std::string page = FillPage(kTemplate, document, {{"schema", "paritrace/diff/1"}, {"name", evil}},
                                    {.markdown = evil, .tokens = {evil}});
  EXPECT_EQ(page.find('\xff'), std::string::npos);
  const nlohmann::json data = DataOf(page);
  EXPECT_EQ(data["result"]["schema"], "paritrace/diff/1");
  const std::string shown = "</script><!--<script>\"\\\xef\xbf\xbd\xe2\x80\xa8{{paritrace:data}}";
  for (const auto& text :
       {data["result"]["name"], data["page"]["markdown"], data["page"]["tokens"][0], data["page"]["facts"][0][1]})
    EXPECT_EQ(text, shown);
  EXPECT_EQ(data["page"]["command"], "diff");
  EXPECT_EQ(data["page"]["tone"], "odd");
  EXPECT_FALSE(data.contains("views"));
  EXPECT_THAT(page.substr(0, page.find("<script")), HasSubstr("&lt;/script&gt;"));
}

TEST(Page, RefusesATemplateWithoutItsPlaces) {
  EXPECT_THROW((void)FillPage("<html></html>", {}, {}, {}), InternalError);
}

TEST(Page, TheTemplateOfThisBuildCanBeFilled) {
  if (PageTemplate().empty()) GTEST_SKIP() << "this build has no page: report/ was not built";
  const std::string page = FillPage(PageTemplate(), {.title = "paritrace logits", .sentence = "Identical."}, {}, {});
  EXPECT_EQ(page.find("{{paritrace:"), std::string::npos);
  EXPECT_THAT(page, HasSubstr("<noscript><h1>Identical.</h1>"));
  EXPECT_THAT(page, Not(HasSubstr("src=\"http")));
}

TEST(Page, PacksWordsAsTheBrowserReadsThem) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(PackF32({}), "");
  EXPECT_EQ(PackF32({1}), "AACAPw==");          // also in report/src/logic.test.ts
  EXPECT_EQ(PackF32({1, -2}), "AACAPwAAAMA=");  // two words: one byte short of a group
  EXPECT_EQ(PackF32({1, -2, 0.5F}), "AACAPwAAAMAAAAA/");
  EXPECT_EQ(PackF32({nan}), "AADAfw==");
  EXPECT_EQ(PackU32({0, 4294967295U}), "AAAAAP////8=");
}

}  // namespace
}  // namespace paritrace
