// What every terminal report needs: colour where it is wanted, and columns that line up whatever script the text is in.
#pragma once

#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

namespace paritrace {

enum class Style { kPlain, kBold, kDim, kRed, kGreen, kYellow, kCyan, kBoldRed, kBoldGreen, kBoldYellow };

// True if `stream` is a terminal that shows colour and the user has not said no (NO_COLOR set and not empty: no-color.org).
[[nodiscard]] bool WantsColour(std::FILE* stream);

// Columns of the terminal behind `stream`; `otherwise` where it is none or does not say.
[[nodiscard]] int TerminalWidth(std::FILE* stream, int otherwise = 80);

// Columns that UTF-8 text takes: 2 for wide East Asian characters and emoji, 0 for combining marks and control
// characters, 1 for a byte that is no UTF-8. Escape sequences are not understood: measure before painting.
[[nodiscard]] std::size_t DisplayWidth(std::string_view text);

// Without control characters, so that a name from somebody's file cannot drive the terminal: each becomes "?".
[[nodiscard]] std::string Printable(std::string_view text);

[[nodiscard]] std::string Paint(std::string_view text, Style style, bool colour);

// Filled with spaces up to `width` columns; longer text is left as it is.
[[nodiscard]] std::string PadRight(std::string_view text, std::size_t width);
[[nodiscard]] std::string PadLeft(std::string_view text, std::size_t width);

// At most `width` columns; what is cut off leaves "…" at the end.
[[nodiscard]] std::string Shorten(std::string_view text, std::size_t width);

// Breaks at spaces into lines of at most `width` columns; lines after the first start with `indent` spaces. A word
// longer than a line stands alone on it, uncut (it may be a command to copy). Line feeds in the text are kept.
[[nodiscard]] std::string Wrap(std::string_view text, std::size_t width, std::size_t indent = 0);

// A table with aligned columns, two spaces between them and no rules.
class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Cell {
    std::string text;
    Style style = Style::kPlain;
  };

  void AddColumn(std::string heading, Align align);
  // Missing cells are empty.
  void AddRow(std::vector<Cell> cells);
  // A line across the columns, such as a count of rows left out.
  void AddNote(std::string text, Style style = Style::kDim);

  // At most `width` columns wide if shortening the cells of left-aligned columns (to 8 columns at least) can do it.
  [[nodiscard]] std::string Render(std::size_t width, bool colour) const;

 private:
  struct Column {
    std::string heading;
    Align align;
  };
  struct Row {
    std::vector<Cell> cells;
    bool is_note = false;
  };
  [[nodiscard]] std::vector<std::size_t> Widths(std::size_t width) const;

  std::vector<Column> columns_;
  std::vector<Row> rows_;
};

}  // namespace paritrace
