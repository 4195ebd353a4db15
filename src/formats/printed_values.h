// Nested lists of numbers as programs print a tensor: "[[ 1.6355e-01, ..., -4.9607e-02], ...]".
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/dump.h"

namespace paritrace {

struct PrintedNumber {
  double value = 0;
  double uncertainty = 0;  // half a unit of its last digit: 5e-5 of "0.1636", 5e-6 of "1.6355e-01"; 0 of nan and inf
};

// nullopt: no number. "nan", "-inf", "True" are numbers here.
[[nodiscard]] std::optional<PrintedNumber> ParsePrintedNumber(std::string_view text);

// The printed values of a tensor of that shape. "..." stands for what was left out: what comes before it counts from the
// front of its axis, what comes after from the back. Brackets, commas and white space are as they come.
//   text   begins at or before the first bracket and ends where it closes; what follows is ignored
//   exact  true: the numbers are what they say (integers)
// Errors: FormatError naming file and place, where text and shape do not fit.
[[nodiscard]] std::vector<PrintedValue> ParsePrintedValues(std::string_view text, const Shape& shape, bool exact,
                                                           const std::string& file, std::string_view place);

}  // namespace paritrace
