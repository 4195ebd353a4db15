// The page that --html writes: the template built from report/, filled with a command's result. A build without Node.js has
// no template; the plain pages of diagnosis_html.h, diff_html.h and document.h take its place.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "report/document.h"

namespace paritrace {

// What stands in the page beside the command's JSON.
struct PageExtras {
  std::string markdown;             // what --md writes
  std::vector<std::string> tokens;  // their texts, by position; empty: not known
  nlohmann::ordered_json views;  // for the page's views only (report/src/data.ts, Payload); null where there are none
};

// The template; "" in a build without it.
[[nodiscard]] std::string_view PageTemplate();

// The template with everything in it. `result` is the command's JSON; it and the texts may hold anything, markup and broken
// UTF-8 included. Errors: InternalError where the template lacks a place to fill.
[[nodiscard]] std::string FillPage(std::string_view page_template, const Document& document,
                                   const nlohmann::ordered_json& result, const PageExtras& extras);

// The same with this build's template; the plain page where it has none.
[[nodiscard]] std::string DocumentToHtml(const Document& document, const nlohmann::ordered_json& result);

// `values` as base64 of little-endian words: as text they would take three times the room.
[[nodiscard]] std::string PackF32(const std::vector<float>& values);
[[nodiscard]] std::string PackU32(const std::vector<std::uint32_t>& values);

}  // namespace paritrace
