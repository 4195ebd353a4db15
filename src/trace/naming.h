// From an engine's own names to sites, by the rules in rules/*.toml (compiled into the library).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "trace/sites.h"  // IWYU pragma: export

namespace paritrace {

// The site that `engine` ("hf", "llamacpp", …; "" tries all rule files) means by `name`; nullopt where no rule maps it.
// A name that is a site maps to itself.
[[nodiscard]] std::optional<std::string> SiteOf(std::string_view engine, std::string_view name);

// True if there is a rule file for that engine.
[[nodiscard]] bool HasRules(std::string_view engine);

}  // namespace paritrace
