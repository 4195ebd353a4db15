#include "report/page.h"

#include <bit>

#include <fmt/format.h>

#include "core/error.h"
#include "report/markup.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kData = "\"{{paritrace:data}}\"", kTitle = "{{paritrace:title}}",
                           kSentence = "{{paritrace:sentence}}";

std::string_view Name(Tone tone) {
  switch (tone) {
    case Tone::kGood: return "good";
    case Tone::kBad: return "bad";
    case Tone::kOdd: return "odd";
  }
  return "";
}

Json SectionToJson(const Document::Section& section) {
  Json columns = Json::array();
  for (const Document::Column& column : section.columns)
    columns.push_back({{"heading", column.heading}, {"text", column.is_text}});
  return {{"heading", section.heading},
          {"columns", std::move(columns)},
          {"rows", section.rows},
          {"marked", section.marked}};
}

Json PageToJson(const Document& document, const PageExtras& extras) {
  const std::string_view prefix = "paritrace ";
  Json facts = Json::array(), sections = Json::array();
  for (const auto& [name, value] : document.facts) facts.push_back(Json::array({name, value}));
  for (const Document::Section& section : document.sections) sections.push_back(SectionToJson(section));
  Json page = {{"command", document.title.starts_with(prefix) ? document.title.substr(prefix.size()) : document.title},
               {"title", document.title},
               {"tone", Name(document.tone)},
               {"sentence", document.sentence},
               {"facts", std::move(facts)},
               {"remarks", document.remarks},
               {"sections", std::move(sections)},
               {"markdown", extras.markdown},
               {"version", PARITRACE_VERSION}};
  if (!extras.tokens.empty()) page["tokens"] = extras.tokens;
  return page;
}

// Inside a script element only "</script" and "<!--" end or change anything, and "<" stands in strings only.
std::string ForScript(const Json& json) {
  const std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  std::string safe;
  safe.reserve(text.size());
  for (const char c : text) {
    if (c == '<') {
      safe += "\\u003c";
    } else {
      safe += c;
    }
  }
  return safe;
}

std::string PackWords(const std::vector<std::uint32_t>& words) {
  constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string packed;
  std::uint32_t bits = 0;
  int count = 0;
  const auto put = [&](std::uint32_t byte) {
    bits = bits << 8 | byte;
    if (++count < 3) return;
    for (int shift = 18; shift >= 0; shift -= 6) packed += kLetters[bits >> shift & 63];
    bits = 0;
    count = 0;
  };
  for (const std::uint32_t word : words) {
    for (int shift = 0; shift < 32; shift += 8) put(word >> shift & 255);
  }
  const int open = count;
  while (count > 0) put(0);
  for (int i = open; i > 0 && i < 3; ++i) packed[packed.size() - static_cast<std::size_t>(3 - i)] = '=';
  return packed;
}

}  // namespace

std::string FillPage(std::string_view page_template, const Document& document, const Json& result,
                     const PageExtras& extras) {
  Json payload = {{"page", PageToJson(document, extras)}, {"result", result}};
  if (!extras.views.is_null()) payload["views"] = extras.views;
  const std::pair<std::string_view, std::string> parts[] = {{kTitle, EscapeMarkup(document.title)},
                                                            {kSentence, EscapeMarkup(document.sentence)},
                                                            {kData, ForScript(payload)}};
  // In the order of the template, so that what is filled in is never searched.
  std::string page;
  for (const auto& [place, text] : parts) {
    const std::size_t at = page_template.find(place);
    if (at == std::string_view::npos) throw InternalError(fmt::format("the report's template has no {}", place));
    page += page_template.substr(0, at);
    page += text;
    page_template.remove_prefix(at + place.size());
  }
  return page + std::string(page_template);
}

std::string DocumentToHtml(const Document& document, const Json& result) {
  if (PageTemplate().empty()) return DocumentToPlainHtml(document);
  return FillPage(PageTemplate(), document, result, {.markdown = DocumentToMarkdown(document)});
}

std::string PackF32(const std::vector<float>& values) {
  std::vector<std::uint32_t> words;
  words.reserve(values.size());
  for (const float value : values) words.push_back(std::bit_cast<std::uint32_t>(value));
  return PackWords(words);
}

std::string PackU32(const std::vector<std::uint32_t>& values) { return PackWords(values); }

}  // namespace paritrace
