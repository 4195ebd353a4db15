// A diff as one HTML file that needs nothing else: no script, no network.
#pragma once

#include <string>

#include "compare/diff.h"

namespace paritrace {

[[nodiscard]] std::string DiffToHtml(const DiffResult& diff);

}  // namespace paritrace
