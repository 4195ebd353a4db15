// Text inside XML and HTML.
#pragma once

#include <string>
#include <string_view>

namespace paritrace {

// With &, <, >, quotes and control characters made safe for element text and attribute values.
[[nodiscard]] std::string EscapeMarkup(std::string_view text);

}  // namespace paritrace
