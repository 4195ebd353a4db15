#include "core/text.h"

#include <fmt/format.h>

namespace paritrace {
namespace {

// Bytes of the UTF-8 character at the start of `text`; 0 if it is none. Overlong forms and surrogates pass: harmless here.
std::size_t CharacterLength(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const std::size_t length = lead < 0x80                   ? 1
                             : lead >= 0xc2 && lead < 0xe0 ? 2
                             : lead >= 0xe0 && lead < 0xf0 ? 3
                             : lead >= 0xf0 && lead < 0xf5 ? 4
                                                           : 0;
  if (length == 0 || length > text.size()) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) return 0;
  }
  // C1 control characters (U+0080 to U+009F) steer terminals as the C0 ones do.
  if (length == 2 && lead == 0xc2 && static_cast<unsigned char>(text[1]) < 0xa0) return 0;
  return length;
}

}  // namespace

std::string Quoted(std::string_view text, std::size_t limit) {
  std::string quoted = "\"";
  std::size_t at = 0;
  while (at < text.size() && at < limit) {
    const char c = text[at];
    const std::size_t length = CharacterLength(text.substr(at));
    if (c == '"' || c == '\\') {
      quoted += fmt::format("\\{}", c);
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (length == 0 || static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      quoted += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      quoted += text.substr(at, length);
    }
    at += length == 0 ? 1 : length;
  }
  return quoted + (at < text.size() ? "…\"" : "\"");
}

}  // namespace paritrace
