// From an engine's own names to sites, by the rules in rules/*.toml (compiled into the library).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace paritrace {

// True for a name that is itself a site: "embed", "layers.3.attn.q_rope".
[[nodiscard]] bool IsSite(std::string_view name);

// The site that `engine` ("hf", "llamacpp", …; "" tries all rule files) means by `name`; nullopt where no rule maps it.
// A name that is a site maps to itself.
[[nodiscard]] std::optional<std::string> SiteOf(std::string_view engine, std::string_view name);

// True if there is a rule file for that engine.
[[nodiscard]] bool HasRules(std::string_view engine);

// Order in which a decoder computes its sites: smaller first; used where a trace carries no order. Unknown sites come last.
[[nodiscard]] std::int64_t ExecutionRank(std::string_view site);

}  // namespace paritrace
