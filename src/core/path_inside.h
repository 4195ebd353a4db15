// Names of files that stand inside other files (an index, a dump's JSON), and must not lead anywhere else.
#pragma once

#include <string>
#include <string_view>

namespace paritrace {

// The path of `name` inside `folder`. A dump may come from anywhere; it must not make us read files elsewhere, not even
// through a link.  `file` and `place` say where the name was read.
// Errors: FormatError for an absolute name, one with "..", one that does not exist, or a link out of the folder.
[[nodiscard]] std::string PathInside(const std::string& folder, const std::string& name, const std::string& file,
                                     std::string_view place);

}  // namespace paritrace
