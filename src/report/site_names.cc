#include "report/site_names.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include <fmt/format.h>

namespace paritrace {
namespace {

constexpr std::string_view kPrefix = "layers.";

std::string Join(const std::vector<std::string>& parts) {
  std::string text;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) text += i + 1 == parts.size() ? " and " : ", ";
    text += parts[i];
  }
  return text;
}

}  // namespace

std::string RoleOf(const std::string& site, int* layer) {
  if (layer != nullptr) *layer = -1;
  if (!site.starts_with(kPrefix)) return site;
  int number = -1;
  const char* begin = site.data() + kPrefix.size();
  const char* end = site.data() + site.size();
  const auto parsed = std::from_chars(begin, end, number);
  if (parsed.ec != std::errc() || parsed.ptr == end || *parsed.ptr != '.') return site;
  if (layer != nullptr) *layer = number;
  return {parsed.ptr + 1, end};
}

std::string DescribeNumbers(const std::vector<std::int64_t>& numbers) {
  std::string text;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t j = i;
    while (j + 1 < numbers.size() && numbers[j + 1] == numbers[j] + 1) ++j;
    text += fmt::format("{}{}", text.empty() ? "" : ", ", numbers[i]);
    if (j > i) text += fmt::format("{}{}", j == i + 1 ? ", " : "-", numbers[j]);
    i = j + 1;
  }
  return text;
}

std::string DescribeSites(const std::vector<std::string>& sites) {
  // Roles that stand in the same layers share a phrase.
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> roles;
  for (const std::string& site : sites) {
    int layer = -1;
    const std::string role = RoleOf(site, &layer);
    auto known = std::ranges::find(roles, role, [](const auto& entry) { return entry.first; });
    if (known == roles.end()) known = roles.insert(roles.end(), {role, {}});
    if (layer >= 0 && std::ranges::find(known->second, layer) == known->second.end()) known->second.push_back(layer);
  }
  std::vector<std::string> phrases;
  for (std::size_t i = 0; i < roles.size(); ++i) {
    if (roles[i].first.empty()) continue;
    std::vector<std::string> names = {roles[i].first};
    for (std::size_t j = i + 1; j < roles.size(); ++j) {
      if (roles[j].second == roles[i].second && !roles[j].first.empty()) {
        names.push_back(roles[j].first);
        roles[j].first.clear();
      }
    }
    const std::string where = DescribeNumbers(roles[i].second);
    phrases.push_back(where.empty()
                          ? Join(names)
                          : fmt::format("{} of layer{} {}", Join(names), roles[i].second.size() > 1 ? "s" : "", where));
  }
  return Join(phrases);
}

}  // namespace paritrace
