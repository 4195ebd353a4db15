#include "formats/json_fields.h"

#include <limits>

#include <fmt/format.h>

#include "core/error.h"
#include "formats/json.h"

namespace paritrace {
namespace {

const DumpJson& Required(const DumpJson& object, std::string_view key, std::string_view what, const std::string& file,
                         std::string_view place) {
  const DumpJson* value = FindField(object, key);
  if (value == nullptr) throw FormatError(file, place, fmt::format("{} as \"{}\"", what, key), "no such key");
  return *value;
}

std::int64_t Count(const DumpJson& value, std::string_view key, const std::string& file, std::string_view place) {
  constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kMost)
    throw FormatError(file, place, fmt::format("a count as \"{}\"", key), Describe(value));
  return value.get<std::int64_t>();
}

}  // namespace

const DumpJson* FindField(const DumpJson& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(std::string(key));
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string TextField(const DumpJson& object, std::string_view key, const std::string& file, std::string_view place) {
  const DumpJson& value = Required(object, key, "a string", file, place);
  if (!value.is_string()) throw FormatError(file, place, fmt::format("a string as \"{}\"", key), Describe(value));
  return value.get<std::string>();
}

std::int64_t CountField(const DumpJson& object, std::string_view key, const std::string& file, std::string_view place) {
  return Count(Required(object, key, "a count", file, place), key, file, place);
}

Shape ShapeField(const DumpJson& object, std::string_view key, const std::string& file, std::string_view place) {
  const DumpJson& value = Required(object, key, "a list", file, place);
  if (!value.is_array()) throw FormatError(file, place, fmt::format("a list as \"{}\"", key), Describe(value));
  Shape shape;
  for (const DumpJson& axis : value) shape.push_back(Count(axis, key, file, place));
  return shape;
}

}  // namespace paritrace
