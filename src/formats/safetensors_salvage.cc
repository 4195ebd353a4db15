#include "formats/safetensors_salvage.h"

#include <algorithm>
#include <cstddef>

namespace paritrace {

std::vector<std::string> SalvagedHeaders(std::string_view text) {
  constexpr std::size_t kTries = 3;  // a torn write leaves one entry broken, or a metadata object and the entry before
  std::vector<std::string> found;
  std::vector<std::size_t> ends;  // of the entries
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{') {
      ++depth;
    } else if (c == '}' && --depth <= 1) {
      if (depth <= 0) {
        found.emplace_back(text.substr(0, i + 1));
        break;
      }
      ends.push_back(i + 1);
    }
  }
  for (std::size_t i = 0; i < std::min(kTries, ends.size()); ++i)
    found.push_back(std::string(text.substr(0, ends[ends.size() - 1 - i])) + "}");
  found.emplace_back("{}");
  return found;
}

}  // namespace paritrace
