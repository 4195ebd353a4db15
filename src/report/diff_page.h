// The diff as the page of report/.
#pragma once

#include <string>
#include <vector>

#include "compare/diff.h"

namespace paritrace {

// tokens: their texts by position; empty: not known. The traces that were compared must still be open: a sample of their
// values goes into the page. The plain page where this build has no other.
[[nodiscard]] std::string DiffToHtml(const DiffResult& diff, const std::vector<std::string>& tokens);

}  // namespace paritrace
