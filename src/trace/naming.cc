#include "trace/naming.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "trace/embedded_rules.h"
#include "trace/naming_rules.h"

namespace paritrace {
namespace {

const std::vector<NamingRules>& AllRules() {
  static const std::vector<NamingRules> all = [] {
    std::vector<NamingRules> rules;
    for (const EmbeddedRules& file : AllEmbeddedRules()) {
      rules.push_back(NamingRules::Parse(file.text, fmt::format("rules/{}.toml", file.engine)));
    }
    return rules;
  }();
  return all;
}

}  // namespace

std::optional<std::string> SiteOf(std::string_view engine, std::string_view name) {
  if (IsSite(name)) return std::string(name);
  for (const NamingRules& rules : AllRules()) {
    if (!engine.empty() && !rules.IsFor(engine)) continue;
    if (auto site = rules.SiteOf(name)) return site;
  }
  return std::nullopt;
}

bool HasRules(std::string_view engine) {
  return std::any_of(AllRules().begin(), AllRules().end(),
                     [&](const NamingRules& rules) { return rules.IsFor(engine); });
}

}  // namespace paritrace
