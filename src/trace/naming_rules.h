// One rule file: how one engine's names become sites. The file format is described in rules/README.md.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <regex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace paritrace {

class NamingRules {
 public:
  // Parses TOML text. `file` is the name for errors.
  // Errors: FormatError for TOML that does not parse, a missing key, a pattern that is no regular expression, or a site
  // that asks for a group the pattern does not have.
  static NamingRules Parse(std::string_view text, const std::string& file);

  // The site of the first rule whose pattern matches all of `name`; nullopt where none does, or where the result is no site.
  // Safe to call from several threads; results are remembered.
  [[nodiscard]] std::optional<std::string> SiteOf(std::string_view name) const;

  [[nodiscard]] const std::string& engine() const { return engine_; }
  // True for the engine's name or one of its aliases.
  [[nodiscard]] bool IsFor(std::string_view engine) const;

 private:
  struct Rule {
    std::string prefix,
        suffix;  // literal text that every match begins and ends with: a cheap test before the expensive one
    std::regex pattern;
    std::string site;  // with {1}, {2} for the groups
  };
  struct Cache {
    std::mutex mutex;
    std::unordered_map<std::string, std::optional<std::string>> sites;
  };

  [[nodiscard]] std::optional<std::string> Match(const std::string& name) const;

  std::string engine_;
  std::vector<std::string> aliases_;
  std::vector<Rule> rules_;
  std::unique_ptr<Cache> cache_ = std::make_unique<Cache>();
};

}  // namespace paritrace
