// Rule files are TOML:
//
//   engine = "hf"                    the engine's name in a trace's header
//   aliases = ["transformers"]       other names for it (optional)
//
//   [[rule]]
//   pattern = 'model\.layers\.(\d+)\.self_attn\.q_proj'   ECMAScript; must match the whole name
//   site = "layers.{1}.attn.q"                            {1}: what the first group matched
//
// The first rule that matches wins. The same for users: rules/README.md.
#include "trace/naming_rules.h"

#include <algorithm>

#include <fmt/format.h>
#include <toml++/toml.h>

#include "core/error.h"
#include "core/text.h"
#include "trace/naming.h"

namespace paritrace {
namespace {

// std::regex recurses once or more a character; names from hostile files must not reach the end of the stack.
constexpr std::size_t kMaxName = 256;
// Names also come from hostile files in numbers without end.
constexpr std::size_t kMaxRemembered = 1 << 16;

std::string LineOf(const toml::node& node) { return fmt::format("line {}", node.source().begin.line); }

std::string ReadString(const toml::table& table, std::string_view key, const std::string& file) {
  const auto value = table[key].value<std::string>();
  if (!value) throw FormatError(file, LineOf(table), fmt::format("{} = \"…\"", key), "no such string");
  return *value;
}

struct Literals {
  std::string prefix, suffix;
};

// The literal text at both ends of a pattern, as far as it is plain to see; empty where it is not.
Literals FindLiterals(std::string_view pattern) {
  constexpr std::string_view kSpecial = "^$.*+?()[]{}|\\";
  // Anchors say nothing new: the whole name must match anyway.
  if (pattern.starts_with('^')) pattern.remove_prefix(1);
  if (pattern.ends_with('$') && !pattern.ends_with("\\$")) pattern.remove_suffix(1);
  Literals found;
  std::string run;
  bool first_run = true;
  int depth = 0;
  bool in_class = false;
  const auto end_run = [&] {
    if (first_run) found.prefix = run;
    first_run = false;
    run.clear();
  };
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\') {
      const char escaped = ++i < pattern.size() ? pattern[i] : '\0';
      if (depth == 0 && !in_class && kSpecial.find(escaped) != std::string_view::npos) {
        run += escaped;
      } else {
        end_run();
      }
      continue;
    }
    if (in_class) {
      in_class = c != ']';
      continue;
    }
    if (c == '|' && depth == 0) return {};
    const bool quantifier = c == '*' || c == '+' || c == '?' || c == '{';
    if (quantifier && !run.empty()) run.pop_back();  // it makes the last character optional or repeats it
    if (c == '(') ++depth;
    if (c == ')') --depth;
    in_class = c == '[';
    if (depth > 0 || kSpecial.find(c) != std::string_view::npos) {
      end_run();
      // The digits of a counted repetition are no text.
      if (c == '{') i = std::min(pattern.find('}', i), pattern.size() - 1);
    } else {
      run += c;
    }
  }
  if (first_run) found.prefix = run;
  found.suffix = run;
  return found;
}

int GroupsAskedFor(const std::string& site) {
  int most = 0;
  for (std::size_t i = 0; i + 2 < site.size(); ++i) {
    if (site[i] == '{' && site[i + 1] >= '1' && site[i + 1] <= '9' && site[i + 2] == '}')
      most = std::max(most, site[i + 1] - '0');
  }
  return most;
}

std::string Fill(const std::string& site, const std::smatch& match) {
  std::string filled;
  for (std::size_t i = 0; i < site.size(); ++i) {
    if (site[i] == '{' && i + 2 < site.size() && site[i + 2] == '}') {
      filled += match[static_cast<std::size_t>(site[i + 1] - '0')].str();
      i += 2;
    } else {
      filled += site[i];
    }
  }
  return filled;
}

}  // namespace

NamingRules NamingRules::Parse(std::string_view text, const std::string& file) {
  toml::table table;
  try {
    table = toml::parse(text);
  } catch (const toml::parse_error& error) {
    throw FormatError(file, fmt::format("line {}", error.source().begin.line), "valid TOML", error.description());
  }
  NamingRules rules;
  rules.engine_ = ReadString(table, "engine", file);
  if (const auto* aliases = table["aliases"].as_array()) {
    for (const auto& alias : *aliases) {
      if (const auto name = alias.value<std::string>()) rules.aliases_.push_back(*name);
    }
  }
  const toml::array* list = table["rule"].as_array();
  if (list == nullptr) throw FormatError(file, "rule", "[[rule]] tables", "none");
  for (const auto& node : *list) {
    if (!node.is_table()) throw FormatError(file, LineOf(node), "a [[rule]] table", "another value");
    const toml::table& entry = *node.as_table();
    const std::string pattern = ReadString(entry, "pattern", file);
    const Literals literals = FindLiterals(pattern);
    Rule rule{literals.prefix, literals.suffix, {}, ReadString(entry, "site", file)};
    try {
      rule.pattern.assign(pattern, std::regex::ECMAScript | std::regex::optimize);
    } catch (const std::regex_error&) {
      throw FormatError(file, LineOf(entry), "a regular expression as pattern", Quoted(pattern));
    }
    if (GroupsAskedFor(rule.site) > static_cast<int>(rule.pattern.mark_count())) {
      throw FormatError(file, LineOf(entry), fmt::format("at most {} groups in site", rule.pattern.mark_count()),
                        Quoted(rule.site));
    }
    rules.rules_.push_back(std::move(rule));
  }
  return rules;
}

bool NamingRules::IsFor(std::string_view engine) const {
  return engine == engine_ || std::find(aliases_.begin(), aliases_.end(), engine) != aliases_.end();
}

std::optional<std::string> NamingRules::Match(const std::string& name) const {
  std::smatch match;
  for (const Rule& rule : rules_) {
    if (!name.starts_with(rule.prefix) || !name.ends_with(rule.suffix) || !std::regex_match(name, match, rule.pattern))
      continue;
    std::string site = Fill(rule.site, match);
    if (!IsSite(site)) return std::nullopt;  // a layer number too long to be one
    return site;
  }
  return std::nullopt;
}

std::optional<std::string> NamingRules::SiteOf(std::string_view name) const {
  if (name.size() > kMaxName) return std::nullopt;
  const std::string key(name);
  {
    const std::scoped_lock lock(cache_->mutex);
    if (const auto found = cache_->sites.find(key); found != cache_->sites.end()) return found->second;
  }
  auto site = Match(key);
  const std::scoped_lock lock(cache_->mutex);
  if (cache_->sites.size() < kMaxRemembered) cache_->sites.emplace(key, site);
  return site;
}

}  // namespace paritrace
