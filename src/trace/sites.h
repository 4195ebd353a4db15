// The list of sites. Apart from naming.h, so that what only records needs no naming rules.
#pragma once

#include <cstdint>
#include <string_view>

namespace paritrace {

// True for a name that is itself a site: "embed", "layers.3.attn.q_rope".
[[nodiscard]] bool IsSite(std::string_view name);

// Order in which a decoder computes its sites: smaller first; used where a trace carries no order. Unknown sites come last.
[[nodiscard]] std::int64_t ExecutionRank(std::string_view site);

}  // namespace paritrace
