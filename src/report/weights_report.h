// The result of `paritrace weights`, for people and for scripts.
#pragma once

#include <vector>

#include <nlohmann/json.hpp>

#include "compare/weights.h"
#include "report/document.h"

namespace paritrace {

// Schema paritrace/weights/1.
[[nodiscard]] nlohmann::ordered_json WeightsToJson(const WeightsResult& result);

// all: every tensor, not only those that are no rounding of each other.
[[nodiscard]] Document WeightsToDocument(const WeightsResult& result, bool all);

// A check a tensor.
[[nodiscard]] std::vector<Check> WeightsToChecks(const WeightsResult& result);

}  // namespace paritrace
