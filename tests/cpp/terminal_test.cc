#include "report/terminal.h"

#include <cstdlib>

#include <gtest/gtest.h>

namespace paritrace {
namespace {

TEST(DisplayWidth, CountsColumnsNotBytes) {
  EXPECT_EQ(DisplayWidth("abc"), 3u);
  EXPECT_EQ(DisplayWidth(""), 0u);
  EXPECT_EQ(DisplayWidth("naïve…"), 6u);
  EXPECT_EQ(DisplayWidth("日本"), 4u);
  EXPECT_EQ(DisplayWidth("e\u0301"), 1u);  // a combining accent
  EXPECT_EQ(DisplayWidth("🦙"), 2u);
  EXPECT_EQ(DisplayWidth("\xff\xfe"), 2u);  // no UTF-8: one column a byte
  EXPECT_EQ(DisplayWidth("\xe6\x97"), 2u);  // cut off in the middle
  EXPECT_EQ(DisplayWidth("\xc0\xaf"), 2u);  // overlong
}

TEST(Printable, TakesOutWhatDrivesTheTerminal) {
  EXPECT_EQ(Printable("blk.0\x1b[2J\n"), "blk.0?[2J?");
  EXPECT_EQ(Printable("Ġtoken \xff"), "Ġtoken ?");
  EXPECT_EQ(Printable("\xc2\x9b"
                      "31m"),
            "?31m");  // CSI as one character
}

TEST(Shorten, NeverCutsACharacterInTwo) {
  EXPECT_EQ(Shorten("layers.10.attn.q_rope", 10), "layers.10…");
  EXPECT_EQ(Shorten("日本語", 4), "日…");
  EXPECT_EQ(Shorten("日本語", 6), "日本語");
  EXPECT_EQ(Shorten("abc", 0), "");
}

TEST(Wrap, BreaksAtSpacesAndKeepsLongWordsWhole) {
  EXPECT_EQ(Wrap("one two three", 7), "one two\nthree");
  EXPECT_EQ(Wrap("a verylongcommand b", 5, 2), "a\n  verylongcommand\n  b");
  EXPECT_EQ(Wrap("a\nb", 80), "a\nb");
}

TEST(Paint, OnlyWithColour) {
  EXPECT_EQ(Paint("x", Style::kRed, false), "x");
  EXPECT_EQ(Paint("x", Style::kRed, true), "\x1b[31mx\x1b[0m");
  EXPECT_EQ(Paint("x", Style::kPlain, true), "x");
}

TEST(WantsColour, NeverInAFile) {
  std::FILE* file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  EXPECT_FALSE(WantsColour(file));
  EXPECT_EQ(TerminalWidth(file, 77), 77);
  std::fclose(file);
}

TEST(Table, AlignsWhateverTheScript) {
  Table table;
  table.AddColumn("site", Table::Align::kLeft);
  table.AddColumn("nmse", Table::Align::kRight);
  table.AddRow({{"日本", Style::kPlain}, {"1", Style::kPlain}});
  table.AddRow({{"q", Style::kPlain}, {"1e-05", Style::kPlain}});
  table.AddNote("2 more");
  EXPECT_EQ(table.Render(80, false), "site   nmse\n日本      1\nq     1e-05\n2 more\n");
}

TEST(Table, WidestTextGivesWay) {
  Table table;
  table.AddColumn("site", Table::Align::kLeft);
  table.AddColumn("status", Table::Align::kLeft);
  table.AddRow({{"model.layers.0.self_attn.q_proj", Style::kPlain}, {"diverged", Style::kPlain}});
  const std::string out = table.Render(24, false);
  EXPECT_EQ(out, "site            status\nmodel.layers.…  diverged\n");
}

TEST(Table, NoSpacesAtTheEndOfALine) {
  Table table;
  table.AddColumn("a", Table::Align::kLeft);
  table.AddColumn("b", Table::Align::kLeft);
  table.AddRow({{"x", Style::kPlain}});
  EXPECT_EQ(table.Render(80, false), "a  b\nx\n");
}

}  // namespace
}  // namespace paritrace
