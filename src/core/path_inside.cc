#include "core/path_inside.h"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include "core/error.h"
#include "core/text.h"

namespace paritrace {

namespace fs = std::filesystem;

std::string PathInside(const std::string& folder, const std::string& name, const std::string& file,
                       std::string_view place) {
  const fs::path relative(name);
  const bool leaves = name.find('\0') != std::string::npos || relative.is_absolute() ||
                      std::find(relative.begin(), relative.end(), "..") != relative.end();
  std::error_code error;
  const fs::path root = fs::canonical(folder, error);
  const fs::path target = leaves || error ? fs::path() : fs::canonical(fs::path(folder) / relative, error);
  if (leaves) throw FormatError(file, place, "a file inside the trace", Quoted(name));
  if (error) throw FormatError(file, place, fmt::format("the file {} inside the trace", Quoted(name)), error.message());
  if (std::mismatch(root.begin(), root.end(), target.begin(), target.end()).first != root.end())
    throw FormatError(file, place, "a file inside the trace", fmt::format("{}, a link out of it", Quoted(name)));
  return (fs::path(folder) / relative).string();
}

}  // namespace paritrace
