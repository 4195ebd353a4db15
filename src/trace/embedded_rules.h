// The texts of rules/*.toml, compiled in by CMake.
#pragma once

#include <string_view>
#include <vector>

namespace paritrace {

struct EmbeddedRules {
  std::string_view engine;  // the file's name without its ending
  std::string_view text;    // TOML
};

[[nodiscard]] const std::vector<EmbeddedRules>& AllEmbeddedRules();

}  // namespace paritrace
