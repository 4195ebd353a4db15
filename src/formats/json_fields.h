// Fields of JSON objects that somebody else wrote: looked up, checked, and named in the error.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "core/tensor.h"

namespace paritrace {

using DumpJson = nlohmann::ordered_json;

// nullptr where `object` is no object, or the key is absent or null.
[[nodiscard]] const DumpJson* FindField(const DumpJson& object, std::string_view key);

// Errors (all below): FormatError naming file, place and key, for a field that is missing or of another type.
[[nodiscard]] std::string TextField(const DumpJson& object, std::string_view key, const std::string& file,
                                    std::string_view place);
[[nodiscard]] std::int64_t CountField(const DumpJson& object, std::string_view key, const std::string& file,
                                      std::string_view place);
[[nodiscard]] Shape ShapeField(const DumpJson& object, std::string_view key, const std::string& file,
                               std::string_view place);

}  // namespace paritrace
