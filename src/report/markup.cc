#include "report/markup.h"

#include <algorithm>

#include "report/terminal.h"

namespace paritrace {
namespace {

// Broken UTF-8 and control characters out, line feeds and tabs kept.
std::string Clean(std::string_view text) {
  std::string clean;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find_first_of("\n\t"), text.size());
    clean += Printable(text.substr(0, end));
    if (end < text.size()) clean += text[end];
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return clean;
}

}  // namespace

std::string EscapeMarkup(std::string_view text) {
  std::string safe;
  for (const char c : Clean(text)) {
    switch (c) {
      case '&': safe += "&amp;"; break;
      case '<': safe += "&lt;"; break;
      case '>': safe += "&gt;"; break;
      case '"': safe += "&quot;"; break;
      case '\'': safe += "&#39;"; break;
      default: safe += c;
    }
  }
  return safe;
}

}  // namespace paritrace
