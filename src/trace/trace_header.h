// The header of a trace, from JSON that anybody may have written.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "trace/trace.h"

namespace paritrace {

inline constexpr std::string_view kTraceFormat = "paritrace/1";
inline constexpr std::string_view kHeaderFile = "trace.json";
inline constexpr std::string_view kIndexFile = "index.jsonl";
inline constexpr std::string_view kHeaderMetadataKey = "paritrace";  // in a single file's own metadata

// Reads what the header says; keys that are absent or null stay empty, unknown keys stay in `raw`. `file` is the name for errors.
// Errors: FormatError naming the key, for a value of the wrong type or another format.
[[nodiscard]] TraceHeader ParseTraceHeader(nlohmann::ordered_json json, const std::string& file);

}  // namespace paritrace
