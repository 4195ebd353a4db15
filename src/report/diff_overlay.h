// A diff as node data for Model Explorer (overlay.h).
#pragma once

#include <nlohmann/json.hpp>

#include "compare/diff.h"

namespace paritrace {

// The difference over what rounding explains, of every site that was compared.
[[nodiscard]] nlohmann::ordered_json DiffToOverlay(const DiffResult& diff);

}  // namespace paritrace
