// Content hashes of tensors, so that two traces can be told identical without comparing values.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace paritrace {

// "xxh3:" and 32 hex digits: XXH3-128 of the bytes, canonical (big-endian) order.
[[nodiscard]] std::string HashBytes(std::span<const std::byte> bytes);

}  // namespace paritrace
