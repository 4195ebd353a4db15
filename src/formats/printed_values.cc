#include "formats/printed_values.h"

#include <charconv>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "core/error.h"
#include "core/text.h"

namespace paritrace {
namespace {

bool IsSpace(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

class Parser {
 public:
  Parser(std::string_view text, const Shape& shape, bool exact, const std::string& file, std::string_view place)
      : text_(text), shape_(shape), exact_(exact), file_(file), place_(place) {
    if (ElementCount(shape).value_or(0) == 0) return;  // strides of other axes may overflow then
    strides_.assign(shape.size(), 1);
    for (std::size_t axis = shape.size(); axis-- > 1;) strides_[axis - 1] = strides_[axis] * shape[axis];
  }

  std::vector<PrintedValue> Parse() {
    if (shape_.empty()) return Scalar();
    if (strides_.empty()) return {};
    const std::size_t open = text_.find('[');
    if (open == std::string_view::npos) Fail("a list in brackets", "none");
    at_ = open + 1;
    List(0);
    Place(0, 0, 0);
    return std::move(values_);
  }

 private:
  // The printed lists, flat: where each axis' lists begin among their children.
  struct Printed {
    std::size_t first = 0, count = 0;                                // children: lists of the next axis, or numbers
    std::size_t ellipsis = std::numeric_limits<std::size_t>::max();  // children before it
  };

  [[noreturn]] void Fail(std::string_view expected, std::string_view found) const {
    throw FormatError(file_, place_, expected, found);
  }

  std::vector<PrintedValue> Scalar() {
    const auto number = ParsePrintedNumber(Word());
    if (!number) Fail("a number", Quoted(text_, 40));
    return {{0, number->value, exact_ ? 0 : number->uncertainty}};
  }

  std::string_view Word() {
    const std::size_t begin = at_;
    while (at_ < text_.size() && !IsSpace(text_[at_]) && text_[at_] != ',' && text_[at_] != '[' && text_[at_] != ']')
      ++at_;
    return text_.substr(begin, at_ - begin);
  }

  // Reads up to the bracket that closes the list. Recursion is as deep as the shape has axes.
  void List(std::size_t axis) {
    if (lists_.size() <= axis) lists_.resize(shape_.size());
    Printed list;
    const bool innermost = axis + 1 == shape_.size();
    list.first = innermost ? numbers_.size() : lists_[axis + 1].size();
    for (;;) {
      while (at_ < text_.size() && (IsSpace(text_[at_]) || text_[at_] == ',')) ++at_;
      if (at_ >= text_.size()) Fail("a closing bracket", "the end of the print");
      if (text_[at_] == ']') {
        ++at_;
        break;
      }
      if (text_[at_] == '[') {
        if (innermost)
          Fail(fmt::format("lists {} deep, as the shape {}", shape_.size(), ToString(shape_)), "deeper ones");
        ++at_;
        List(axis + 1);
        ++list.count;
        continue;
      }
      const std::string_view word = Word();
      if (word == "...") {
        if (list.ellipsis != std::numeric_limits<std::size_t>::max()) Fail("one ... a list", "two");
        list.ellipsis = list.count;
        continue;
      }
      const auto number = ParsePrintedNumber(word);
      if (!number || !innermost) Fail(innermost ? "a number" : "a list", Quoted(word, 40));
      numbers_.push_back(*number);
      ++list.count;
    }
    const auto size = static_cast<std::uint64_t>(shape_[axis]);
    const bool cut = list.ellipsis != std::numeric_limits<std::size_t>::max();
    if (cut ? list.count >= size : list.count != size) {
      Fail(fmt::format("{} entries, of {}", cut ? fmt::format("fewer than {}", size) : fmt::format("{}", size),
                       ToString(shape_)),
           fmt::format("{}", list.count));
    }
    lists_[axis].push_back(list);
  }

  // Lists are stored when they close, so that children stand before their parents but in order among themselves.
  void Place(std::size_t axis, std::size_t which, std::int64_t base) {
    const Printed& list = lists_[axis][which];
    for (std::size_t i = 0; i < list.count; ++i) {
      const std::int64_t from_back = shape_[axis] - static_cast<std::int64_t>(list.count - i);
      const std::int64_t index = base + strides_[axis] * (i < list.ellipsis ? static_cast<std::int64_t>(i) : from_back);
      if (axis + 1 < shape_.size()) {
        Place(axis + 1, list.first + i, index);
      } else {
        const PrintedNumber& number = numbers_[list.first + i];
        values_.push_back({index, number.value, exact_ ? 0 : number.uncertainty});
      }
    }
  }

  std::string_view text_;
  const Shape& shape_;
  bool exact_;
  const std::string& file_;
  std::string_view place_;
  std::vector<std::int64_t> strides_;
  std::size_t at_ = 0;
  std::vector<std::vector<Printed>> lists_;  // by axis
  std::vector<PrintedNumber> numbers_;
  std::vector<PrintedValue> values_;
};

}  // namespace

std::optional<PrintedNumber> ParsePrintedNumber(std::string_view text) {
  if (text == "True" || text == "true") return PrintedNumber{1, 0};
  if (text == "False" || text == "false") return PrintedNumber{0, 0};
  PrintedNumber number;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number.value);
  if (error == std::errc::result_out_of_range || end != text.data() + text.size() || text.empty()) return std::nullopt;
  if (!std::isfinite(number.value)) return number;
  const std::size_t exponent_at = text.find_first_of("eE");
  const std::string_view mantissa = text.substr(0, exponent_at);
  const std::size_t point = mantissa.find('.');
  int last_digit = point == std::string_view::npos ? 0 : -static_cast<int>(mantissa.size() - point - 1);
  if (exponent_at != std::string_view::npos) {
    std::string_view digits = text.substr(exponent_at + 1);
    if (digits.starts_with('+')) digits.remove_prefix(1);
    int exponent = 0;
    std::from_chars(digits.data(), digits.data() + digits.size(), exponent);
    last_digit += exponent;
  }
  number.uncertainty = 0.5 * std::pow(10.0, last_digit);
  return number;
}

std::vector<PrintedValue> ParsePrintedValues(std::string_view text, const Shape& shape, bool exact,
                                             const std::string& file, std::string_view place) {
  return Parser(text, shape, exact, file, place).Parse();
}

}  // namespace paritrace
