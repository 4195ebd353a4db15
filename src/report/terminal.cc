#include "report/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>

namespace paritrace {
namespace {

struct Range {
  std::uint32_t first, last;
};

// Unicode 15, EastAsianWidth W and F, and the emoji shown wide, joined where gaps are unassigned.
constexpr Range kWide[] = {
    {0x1100, 0x115F},   {0x231A, 0x231B},   {0x2329, 0x232A},   {0x23E9, 0x23EC},   {0x23F0, 0x23F0},
    {0x23F3, 0x23F3},   {0x25FD, 0x25FE},   {0x2614, 0x2615},   {0x2648, 0x2653},   {0x267F, 0x267F},
    {0x2693, 0x2693},   {0x26A1, 0x26A1},   {0x26AA, 0x26AB},   {0x26BD, 0x26BE},   {0x26C4, 0x26C5},
    {0x26CE, 0x26CE},   {0x26D4, 0x26D4},   {0x26EA, 0x26EA},   {0x26F2, 0x26F3},   {0x26F5, 0x26F5},
    {0x26FA, 0x26FA},   {0x26FD, 0x26FD},   {0x2705, 0x2705},   {0x270A, 0x270B},   {0x2728, 0x2728},
    {0x274C, 0x274C},   {0x274E, 0x274E},   {0x2753, 0x2755},   {0x2757, 0x2757},   {0x2795, 0x2797},
    {0x27B0, 0x27B0},   {0x27BF, 0x27BF},   {0x2B1B, 0x2B1C},   {0x2B50, 0x2B50},   {0x2B55, 0x2B55},
    {0x2E80, 0x303E},   {0x3041, 0x33FF},   {0x3400, 0x4DBF},   {0x4E00, 0xA4CF},   {0xA960, 0xA97F},
    {0xAC00, 0xD7A3},   {0xF900, 0xFAFF},   {0xFE10, 0xFE19},   {0xFE30, 0xFE6F},   {0xFF00, 0xFF60},
    {0xFFE0, 0xFFE6},   {0x16FE0, 0x18DFF}, {0x1AFF0, 0x1B2FF}, {0x1F004, 0x1F004}, {0x1F0CF, 0x1F0CF},
    {0x1F18E, 0x1F18E}, {0x1F191, 0x1F19A}, {0x1F200, 0x1F320}, {0x1F32D, 0x1F335}, {0x1F337, 0x1F37C},
    {0x1F37E, 0x1F393}, {0x1F3A0, 0x1F3CA}, {0x1F3CF, 0x1F3D3}, {0x1F3E0, 0x1F3F0}, {0x1F3F4, 0x1F3F4},
    {0x1F3F8, 0x1F43E}, {0x1F440, 0x1F440}, {0x1F442, 0x1F4FC}, {0x1F4FF, 0x1F53D}, {0x1F54B, 0x1F567},
    {0x1F57A, 0x1F57A}, {0x1F595, 0x1F596}, {0x1F5A4, 0x1F5A4}, {0x1F5FB, 0x1F64F}, {0x1F680, 0x1F6C5},
    {0x1F6CC, 0x1F6CC}, {0x1F6D0, 0x1F6D2}, {0x1F6D5, 0x1F6DF}, {0x1F6EB, 0x1F6EC}, {0x1F6F4, 0x1F6FC},
    {0x1F7E0, 0x1F7F0}, {0x1F90C, 0x1F93A}, {0x1F93C, 0x1F945}, {0x1F947, 0x1FAFF}, {0x20000, 0x3FFFD},
};

// General categories Mn, Me and Cf of the scripts most likely met, joiners and variation selectors among them.
constexpr Range kZero[] = {
    {0x0300, 0x036F}, {0x0483, 0x0489}, {0x0591, 0x05BD},   {0x05BF, 0x05C7},   {0x0610, 0x061A}, {0x061C, 0x061C},
    {0x064B, 0x065F}, {0x0670, 0x0670}, {0x06D6, 0x06DC},   {0x06DF, 0x06E4},   {0x0900, 0x0902}, {0x093C, 0x093C},
    {0x0941, 0x0948}, {0x094D, 0x094D}, {0x0E31, 0x0E31},   {0x0E34, 0x0E3A},   {0x0E47, 0x0E4E}, {0x200B, 0x200F},
    {0x202A, 0x202E}, {0x2060, 0x2064}, {0x20D0, 0x20F0},   {0x302A, 0x302D},   {0x3099, 0x309A}, {0xFE00, 0xFE0F},
    {0xFE20, 0xFE2F}, {0xFEFF, 0xFEFF}, {0xE0001, 0xE007F}, {0xE0100, 0xE01EF},
};

template <std::size_t N>
bool Contains(const Range (&ranges)[N], std::uint32_t code) {
  const Range* found =
      std::upper_bound(ranges, ranges + N, code, [](std::uint32_t c, const Range& range) { return c < range.first; });
  return found != ranges && code <= found[-1].last;
}

struct Character {
  std::uint32_t code;  // the byte itself where it is no UTF-8
  std::size_t length;
  bool valid;
};

Character FirstCharacter(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  const std::size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < length) return {lead, 1, false};
  std::uint32_t code = lead & (0xFFu >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {lead, 1, false};
    code = code << 6 | (byte(i) & 0x3Fu);
  }
  const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
  if (overlong || (code >= 0xD800 && code <= 0xDFFF) || code > 0x10FFFF) return {lead, 1, false};
  return {code, length, true};
}

bool IsControl(std::uint32_t code) { return code < 0x20 || (code >= 0x7F && code < 0xA0); }

std::size_t WidthOf(const Character& character) {
  if (!character.valid) return 1;
  if (IsControl(character.code) || Contains(kZero, character.code)) return 0;
  return Contains(kWide, character.code) ? 2 : 1;
}

std::string_view CodeOf(Style style) {
  switch (style) {
    case Style::kPlain: return "";
    case Style::kBold: return "1";
    case Style::kDim: return "2";
    case Style::kRed: return "31";
    case Style::kGreen: return "32";
    case Style::kYellow: return "33";
    case Style::kCyan: return "36";
    case Style::kBoldRed: return "1;31";
    case Style::kBoldGreen: return "1;32";
    case Style::kBoldYellow: return "1;33";
  }
  return "";
}

constexpr std::string_view kGap = "  ";

}  // namespace

bool WantsColour(std::FILE* stream) {
  const char* no_colour = std::getenv("NO_COLOR");
  if (no_colour != nullptr && *no_colour != '\0') return false;
  const char* terminal = std::getenv("TERM");
  if (terminal == nullptr || std::string_view(terminal) == "dumb") return false;
  return ::isatty(::fileno(stream)) == 1;
}

int TerminalWidth(std::FILE* stream, int otherwise) {
  winsize size{};
  if (::ioctl(::fileno(stream), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return otherwise;
  return size.ws_col;
}

std::size_t DisplayWidth(std::string_view text) {
  std::size_t width = 0;
  while (!text.empty()) {
    const Character character = FirstCharacter(text);
    width += WidthOf(character);
    text.remove_prefix(character.length);
  }
  return width;
}

std::string Printable(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const Character character = FirstCharacter(text);
    if (character.valid && !IsControl(character.code)) {
      out += text.substr(0, character.length);
    } else {
      out += '?';
    }
    text.remove_prefix(character.length);
  }
  return out;
}

std::string Paint(std::string_view text, Style style, bool colour) {
  const std::string_view code = CodeOf(style);
  if (!colour || code.empty() || text.empty()) return std::string(text);
  return "\x1b[" + std::string(code) + "m" + std::string(text) + "\x1b[0m";
}

std::string PadRight(std::string_view text, std::size_t width) {
  const std::size_t taken = DisplayWidth(text);
  return std::string(text) + std::string(taken < width ? width - taken : 0, ' ');
}

std::string PadLeft(std::string_view text, std::size_t width) {
  const std::size_t taken = DisplayWidth(text);
  return std::string(taken < width ? width - taken : 0, ' ') + std::string(text);
}

std::string Shorten(std::string_view text, std::size_t width) {
  if (DisplayWidth(text) <= width) return std::string(text);
  if (width == 0) return "";
  std::size_t taken = 0, end = 0;
  while (end < text.size()) {
    const Character character = FirstCharacter(text.substr(end));
    if (taken + WidthOf(character) > width - 1) break;
    taken += WidthOf(character);
    end += character.length;
  }
  return std::string(text.substr(0, end)) + "…";
}

std::string Wrap(std::string_view text, std::size_t width, std::size_t indent) {
  std::string out;
  std::size_t column = 0;
  bool line_is_empty = true;
  while (!text.empty()) {
    if (text.front() == '\n' || text.front() == ' ') {
      if (text.front() == '\n') {
        out += '\n' + std::string(indent, ' ');
        column = indent;
        line_is_empty = true;
      }
      text.remove_prefix(1);
      continue;
    }
    const std::string_view word = text.substr(0, text.find_first_of(" \n"));
    const std::size_t taken = DisplayWidth(word);
    if (!line_is_empty && column + 1 + taken > width) {
      out += '\n' + std::string(indent, ' ');
      column = indent;
      line_is_empty = true;
    }
    if (!line_is_empty) {
      out += ' ';
      ++column;
    }
    out += word;
    column += taken;
    line_is_empty = false;
    text.remove_prefix(word.size());
  }
  return out;
}

void Table::AddColumn(std::string heading, Align align) { columns_.push_back({std::move(heading), align}); }

void Table::AddRow(std::vector<Cell> cells) {
  cells.resize(columns_.size());
  rows_.push_back({std::move(cells), false});
}

void Table::AddNote(std::string text, Style style) { rows_.push_back({{Cell{std::move(text), style}}, true}); }

std::vector<std::size_t> Table::Widths(std::size_t width) const {
  std::vector<std::size_t> widths;
  std::size_t total = columns_.empty() ? 0 : (columns_.size() - 1) * kGap.size();
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    std::size_t widest = DisplayWidth(columns_[i].heading);
    for (const Row& row : rows_) {
      if (!row.is_note) widest = std::max(widest, DisplayWidth(row.cells[i].text));
    }
    widths.push_back(widest);
    total += widest;
  }
  // The widest text gives way first.
  constexpr std::size_t kLeast = 8;
  while (total > width) {
    std::size_t* widest = nullptr;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      if (columns_[i].align == Align::kLeft && widths[i] > kLeast && (widest == nullptr || widths[i] > *widest))
        widest = &widths[i];
    }
    if (widest == nullptr) break;
    --*widest;
    --total;
  }
  return widths;
}

std::string Table::Render(std::size_t width, bool colour) const {
  const std::vector<std::size_t> widths = Widths(width);
  std::string out;
  const auto line = [&](const auto& text_of, const auto& style_of) {
    std::string text;
    std::size_t blank = 0;  // spaces owed: never written at a line's end
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      if (i > 0) blank += kGap.size();
      const std::string cell = Shorten(text_of(i), widths[i]);
      const std::size_t rest = widths[i] - std::min(widths[i], DisplayWidth(cell));
      if (columns_[i].align == Align::kRight) blank += rest;
      if (!cell.empty()) {
        text += std::string(blank, ' ') + Paint(cell, style_of(i), colour);
        blank = 0;
      }
      if (columns_[i].align == Align::kLeft) blank += rest;
    }
    out += text + "\n";
  };
  line([&](std::size_t i) { return columns_[i].heading; }, [](std::size_t) { return Style::kBold; });
  for (const Row& row : rows_) {
    if (row.is_note) {
      out += Paint(row.cells[0].text, row.cells[0].style, colour) + "\n";
      continue;
    }
    line([&](std::size_t i) { return row.cells[i].text; }, [&](std::size_t i) { return row.cells[i].style; });
  }
  return out;
}

}  // namespace paritrace
