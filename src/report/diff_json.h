// A diff as JSON: schema paritrace/diff/1, the promise to scripts.
#pragma once

#include <nlohmann/json.hpp>

#include "compare/diff.h"

namespace paritrace {

// Numbers that are NaN or infinite are null, and their object then says "nonfinite": true. Where a NaN, an infinity or a
// mask stands on one side only, the distances of that site (and position) are null for that reason; `finite` beside them
// holds what the other pairs give. Sites without values on both sides carry null in place of every figure.
[[nodiscard]] nlohmann::ordered_json DiffToJson(const DiffResult& diff);

// The header as it stands in the trace, else what is known of it.
[[nodiscard]] nlohmann::ordered_json HeaderToJson(const TraceHeader& header, const std::string& path);

}  // namespace paritrace
