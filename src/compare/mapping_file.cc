#include "compare/mapping_file.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include <fmt/format.h>
#include <toml++/toml.h>

#include "core/error.h"
#include "core/file.h"
#include "core/text.h"
#include "trace/naming.h"

namespace paritrace {
namespace {

constexpr std::string_view kFormat = "paritrace-map/1";

std::string LineOf(const toml::node& node) { return fmt::format("line {}", node.source().begin.line); }

class Parser {
 public:
  explicit Parser(const std::string& path) : path_(path) {}

  std::vector<MappedPair> Parse(std::string_view text) {
    toml::table table;
    try {
      table = toml::parse(text, path_);
    } catch (const toml::parse_error& error) {
      throw FormatError(path_, fmt::format("line {}", error.source().begin.line), "TOML", error.description());
    }
    static constexpr std::array<std::string_view, 2> kKeys = {"format", "pair"};
    RefuseOthers(table, kKeys);
    const auto format = table["format"].value<std::string>();
    if (!format || *format != kFormat)
      throw FormatError(path_, "line 1", fmt::format("format = \"{}\"", kFormat), format ? Quoted(*format) : "none");
    std::vector<MappedPair> pairs;
    const toml::node* list = table.get("pair");
    if (list == nullptr) return pairs;
    if (!list->is_array()) throw FormatError(path_, LineOf(*list), "pair = [ … ]", "no array");
    for (const toml::node& node : *list->as_array()) {
      if (!node.is_table())
        throw FormatError(path_, LineOf(node), "{ reference = \"…\", subject = \"…\" }", "no table");
      pairs.push_back(ParsePair(*node.as_table()));
    }
    return pairs;
  }

 private:
  void RefuseOthers(const toml::table& table, std::span<const std::string_view> known) const {
    for (const auto& [key, node] : table) {
      if (std::find(known.begin(), known.end(), key.str()) == known.end())
        throw FormatError(path_, LineOf(node), fmt::format("one of {}", fmt::join(known, ", ")), Quoted(key.str()));
    }
  }

  std::string Text(const toml::table& table, std::string_view key) const {
    const auto value = table[key].value<std::string>();
    if (!value) throw FormatError(path_, LineOf(table), fmt::format("{} = \"…\"", key), "no such string");
    return *value;
  }

  MappedPair ParsePair(const toml::table& table) {
    static constexpr std::array<std::string_view, 5> kKeys = {"reference", "subject", "occurrence", "site",
                                                              "confidence"};
    RefuseOthers(table, kKeys);
    MappedPair pair;
    pair.reference = Text(table, "reference");
    pair.subject = Text(table, "subject");
    if (table.contains("occurrence")) {
      const toml::array* both = table["occurrence"].as_array();
      const auto number = [&](std::size_t i) {
        return both != nullptr && both->size() == 2 ? (*both)[i].value<std::int64_t>().value_or(0) : 0;
      };
      pair.reference_occurrence = number(0);
      pair.subject_occurrence = number(1);
      if (pair.reference_occurrence < 1 || pair.subject_occurrence < 1)
        throw FormatError(path_, LineOf(table), "occurrence = [N, M], both from 1", "something else");
    }
    if (table.contains("site")) {
      pair.site = Text(table, "site");
      if (!IsSite(pair.site)) throw FormatError(path_, LineOf(table), "a site", Quoted(pair.site));
    }
    if (table.contains("confidence")) {
      const auto value = table["confidence"].value<double>();
      if (!value || !(*value >= 0 && *value <= 1))
        throw FormatError(path_, LineOf(table), "confidence from 0 to 1",
                          value ? fmt::format("{}", *value) : "no number");
      pair.confidence = *value;
    }
    Once(reference_seen_, pair.reference, pair.reference_occurrence, table);
    Once(subject_seen_, pair.subject, pair.subject_occurrence, table);
    return pair;
  }

  using Seen = std::set<std::pair<std::string, std::int64_t>>;
  void Once(Seen& seen, const std::string& name, std::int64_t occurrence, const toml::table& table) const {
    if (!seen.emplace(name, occurrence).second)
      throw FormatError(path_, LineOf(table), "each tensor in one pair", fmt::format("{} again", Quoted(name)));
  }

  const std::string& path_;
  Seen reference_seen_, subject_seen_;
};

// A basic string of TOML: quotes, backslashes and control characters escaped.
std::string TomlString(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto code = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (code < 0x20 || code == 0x7f) {
      out += fmt::format("\\u{:04x}", code);
    } else {
      out += c;
    }
  }
  return out + '"';
}

// In a comment a line break would end it.
std::string Comment(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    const auto code = static_cast<unsigned char>(c);
    if (code < 0x20 || code == 0x7f) c = '?';
  }
  return out;
}

// 1-based.
std::map<const TraceEntry*, std::int64_t> OccurrencesOf(const Trace& trace) {
  std::map<const TraceEntry*, std::int64_t> occurrences;
  std::map<std::pair<std::string, int>, std::int64_t> seen;
  for (const TraceEntry& entry : trace.entries) occurrences[&entry] = ++seen[{entry.name, entry.step}];
  return occurrences;
}

// The site of a pair, as far as either side knows: the reference is the one that is trusted.
const std::string& SiteOf(const TraceEntry& reference, const TraceEntry& subject) {
  return reference.site.empty() ? subject.site : reference.site;
}

}  // namespace

std::vector<MappedPair> ParseMapping(std::string_view text, const std::string& path) {
  return Parser(path).Parse(text);
}

std::vector<MappedPair> ReadMapping(const std::string& path) { return ParseMapping(ReadTextFile(path), path); }

std::string FormatMapping(const MatchResult& match, const Trace& reference, const Trace& subject,
                          double least_confidence) {
  const auto ours = OccurrencesOf(reference), theirs = OccurrencesOf(subject);
  const auto line = [&](const TraceMatch& pair) {
    std::string out = fmt::format("{{ reference = {}, subject = {}", TomlString(pair.reference->name),
                                  TomlString(pair.subject->name));
    const std::int64_t a = ours.at(pair.reference), b = theirs.at(pair.subject);
    if (a != 1 || b != 1) out += fmt::format(", occurrence = [{}, {}]", a, b);
    const std::string& site = SiteOf(*pair.reference, *pair.subject);
    if (!site.empty()) out += fmt::format(", site = {}", TomlString(site));
    // Rounded down: a pair must not pass a threshold by being written.
    out += fmt::format(", confidence = {:.4f} }},", std::floor(pair.confidence * 1e4) / 1e4);
    return out + "  # " + Comment(pair.evidence);
  };
  std::string sure, unsure, alone;
  std::int64_t by_rule = 0;
  for (const TraceMatch& pair : match.pairs) {
    if (pair.by_site) {
      ++by_rule;
    } else if (pair.confidence >= least_confidence) {
      sure += "  " + line(pair) + "\n";
    } else {
      unsure += "  # " + line(pair) + "\n";
    }
  }
  for (const auto& [side, entries] :
       {std::pair("reference", &match.reference_only), {"subject", &match.subject_only}}) {
    if (!entries->empty()) alone += fmt::format("\n# Only in the {}:\n", side);
    for (const TraceEntry* entry : *entries) alone += fmt::format("#   {}\n", Comment(entry->name));
  }
  std::string out = fmt::format(
      "# Which tensors of two traces are the same, found by values, order and names.\n"
      "# Use: paritrace diff REF SUB --map THIS_FILE. `values differ by` is the squared error relative to the values' "
      "size.\n");
  if (by_rule > 0) out += fmt::format("# {} more are paired by their site and need no line here.\n", by_rule);
  out += fmt::format("format = \"{}\"\npair = [\n{}", kFormat, sure);
  if (!unsure.empty())
    out += fmt::format("\n  # Below {:.2f}, so not used. Remove the # of what is right.\n{}", least_confidence, unsure);
  return out + "]\n" + alone;
}

MappingUse ApplyMapping(const std::vector<MappedPair>& pairs, double least_confidence, Trace& reference,
                        Trace& subject) {
  using Key = std::pair<std::string, std::int64_t>;
  const auto index = [](Trace& trace) {
    std::map<Key, std::vector<TraceEntry*>> entries;
    std::map<std::pair<std::string, int>, std::int64_t> seen;
    for (TraceEntry& entry : trace.entries) entries[{entry.name, ++seen[{entry.name, entry.step}]}].push_back(&entry);
    return entries;
  };
  const auto ours = index(reference), theirs = index(subject);
  MappingUse use;
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const MappedPair& pair = pairs[i];
    if (!(pair.confidence >= least_confidence)) {
      ++use.unsure;
      continue;
    }
    const auto a = ours.find({pair.reference, pair.reference_occurrence});
    const auto b = theirs.find({pair.subject, pair.subject_occurrence});
    if (a == ours.end() || b == theirs.end()) {
      ++use.absent;
      continue;
    }
    ++use.used;
    use.lowest = std::min(use.lowest, pair.confidence);
    const std::string site = pair.site.empty() ? SiteOf(*a->second.front(), *b->second.front()) : pair.site;
    const std::string key = fmt::format("{}", i);
    for (const auto* entries : {&a->second, &b->second}) {
      for (TraceEntry* entry : *entries) {
        entry->pair_as = key;
        entry->site = site;
      }
    }
  }
  return use;
}

}  // namespace paritrace
