#include "capture/selection.h"

#include <fnmatch.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include <fmt/format.h>

#include "core/error.h"
#include "core/text.h"

namespace paritrace {
namespace {

std::vector<std::string_view> Parts(std::string_view text) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    std::string_view part = text.substr(0, comma);
    while (!part.empty() && part.front() == ' ') part.remove_prefix(1);
    while (!part.empty() && part.back() == ' ') part.remove_suffix(1);
    if (!part.empty()) parts.push_back(part);
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return parts;
}

// "layers.12.attn.q" -> "attn.q"; nullptr where there is no layer.
const char* BehindLayer(const std::string& name) {
  constexpr std::string_view kPrefix = "layers.";
  if (!name.starts_with(kPrefix)) return nullptr;
  const std::size_t dot = name.find('.', kPrefix.size());
  return dot == std::string::npos ? nullptr : name.c_str() + dot + 1;
}

}  // namespace

SiteSelection::SiteSelection(std::string_view globs) {
  for (const std::string_view part : Parts(globs)) globs_.emplace_back(part);
}

bool SiteSelection::Has(std::string_view name) const {
  if (globs_.empty()) return true;
  const std::string whole(name);
  const char* const behind = BehindLayer(whole);
  return std::any_of(globs_.begin(), globs_.end(), [&](const std::string& glob) {
    return fnmatch(glob.c_str(), whole.c_str(), 0) == 0 || (behind != nullptr && fnmatch(glob.c_str(), behind, 0) == 0);
  });
}

StepSelection::StepSelection(std::string_view ranges) {
  for (const std::string_view part : Parts(ranges)) {
    const char* const end = part.data() + part.size();
    int first = 0, last = 0;
    auto [at, error] = std::from_chars(part.data(), end, first);
    bool good = error == std::errc{} && first >= 0;
    last = first;
    if (good && at != end) {
      good = *at++ == '-';
      last = std::numeric_limits<int>::max();
      if (good && at != end) {
        const auto [behind, wrong] = std::from_chars(at, end, last);
        good = wrong == std::errc{} && behind == end && last >= first;
      }
    }
    if (!good) {
      throw UsageError(fmt::format("PARITRACE_STEPS: expected steps such as 0-3,7,12-, found {}", Quoted(part)));
    }
    ranges_.emplace_back(first, last);
  }
}

bool StepSelection::Has(int step) const {
  return ranges_.empty() || std::any_of(ranges_.begin(), ranges_.end(),
                                        [&](const auto& range) { return range.first <= step && step <= range.second; });
}

}  // namespace paritrace
