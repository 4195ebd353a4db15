// What a writer that was cut off has left of a safetensors header.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace paritrace {

// Texts that may be the header's object, the most complete first: up to the brace that closes it (what follows was not yet
// joined to it), then up to the last entries that end, closed. At least one; {} at the worst.
[[nodiscard]] std::vector<std::string> SalvagedHeaders(std::string_view text);

}  // namespace paritrace
