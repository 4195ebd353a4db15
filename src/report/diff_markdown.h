// A diff as Markdown, short enough for a bug report or a pull request.
#pragma once

#include <string>

#include "compare/diff.h"

namespace paritrace {

// The answer, the two sides, and a table in which long runs of one status are folded.
[[nodiscard]] std::string DiffToMarkdown(const DiffResult& diff);

}  // namespace paritrace
