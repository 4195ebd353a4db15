// Text from files, made fit for one line of a terminal.
#pragma once

#include <string>
#include <string_view>

namespace paritrace {

// "name" in double quotes; control characters, quotes and bytes that are no UTF-8 escaped (\n, \x07, \"); cut after `limit`
// bytes with an ellipsis. A name in an error must not be able to break the line or the terminal.
[[nodiscard]] std::string Quoted(std::string_view text, std::size_t limit = 120);

}  // namespace paritrace
