// JSON from files that nobody vouches for: bounded depth, no key twice, errors with file and place.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace paritrace {

// Parses `text`, which stands at `place` ("header", "line 7") in `file`. Time and memory grow linearly with the text,
// whatever it holds. NaN and Infinity are no JSON and are refused.
// Errors: FormatError for a syntax error, text after the value, invalid UTF-8, a key that stands twice in one object, or
// nesting deeper than `max_depth`.
[[nodiscard]] nlohmann::ordered_json ParseJson(std::string_view text, const std::string& file, std::string_view place,
                                               int max_depth = 64);

// "an object", "a string", "-3", "\"bf16\"": the value as error messages name it.
[[nodiscard]] std::string Describe(const nlohmann::ordered_json& value);

}  // namespace paritrace
