#include "core/error.h"

#include <fmt/format.h>

namespace paritrace {

FormatError::FormatError(std::string_view file, std::string_view place, std::string_view expected,
                         std::string_view found)
    : std::runtime_error(fmt::format("{}: {}: expected {}, found {}", file, place, expected, found)) {}

FormatError::FormatError(std::string_view file, std::uint64_t byte_offset, std::string_view expected,
                         std::string_view found)
    : FormatError(file, fmt::format("at byte {}", byte_offset), expected, found) {}

InternalError::InternalError(std::string_view what, const char* file, int line)
    : std::logic_error(fmt::format("internal error at {}:{}: {}", file, line, what)) {}

}  // namespace paritrace
