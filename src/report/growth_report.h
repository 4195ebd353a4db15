// The result of `paritrace growth`, for people and for scripts.
#pragma once

#include <vector>

#include <nlohmann/json.hpp>

#include "compare/growth.h"
#include "report/document.h"

namespace paritrace {

// Schema paritrace/growth/1.
[[nodiscard]] nlohmann::ordered_json GrowthToJson(const GrowthResult& result);

// most_rows: points shown of each trend at most, evenly spread; 0: all.
[[nodiscard]] Document GrowthToDocument(const GrowthResult& result, std::size_t most_rows);

// Two checks, one a trend: failed where the runs diverged and the error grows.
[[nodiscard]] std::vector<Check> GrowthToChecks(const GrowthResult& result);

}  // namespace paritrace
