// A diff as one HTML file that needs nothing else: no script, no network. What a build without the page of
// report/ writes (diff_page.h).
#pragma once

#include <string>

#include "compare/diff.h"

namespace paritrace {

[[nodiscard]] std::string DiffToPlainHtml(const DiffResult& diff);

}  // namespace paritrace
