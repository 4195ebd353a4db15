#include "formats/polygraphy.h"

#include <array>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "core/text.h"
#include "formats/json.h"
#include "formats/npy.h"
#include "formats/owned_bytes.h"

namespace paritrace {
namespace {

// RFC 4648 with padding. nullptr for anything else.
std::shared_ptr<OwnedBytes> DecodeBase64(const std::string& name, std::string_view text) {
  static constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  static const std::array<int, 256> kValues = [] {
    std::array<int, 256> values{};
    values.fill(-1);
    for (std::size_t i = 0; i < kAlphabet.size(); ++i)
      values[static_cast<unsigned char>(kAlphabet[i])] = static_cast<int>(i);
    return values;
  }();
  if (text.size() % 4 != 0) return nullptr;
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  auto out = std::make_shared<OwnedBytes>(name, text.size() / 4 * 3 - padding);
  const auto bytes = out->writable();
  text.remove_suffix(padding);
  std::uint32_t bits = 0;
  int held = 0;
  std::size_t written = 0;
  for (const char c : text) {
    const int value = kValues[static_cast<unsigned char>(c)];
    if (value < 0) return nullptr;
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    held += 6;
    if (held < 8) continue;
    held -= 8;
    bytes[written++] = static_cast<std::byte>(bits >> held & 0xff);
  }
  return written == bytes.size() ? out : nullptr;
}

void AddArray(const DumpJson& json, const std::string& name, int step, const std::string& file, Dump& dump) {
  const std::string place = fmt::format("output {}", Quoted(name));
  // LazyArray {values: ndarray {array: base64}}, or the ndarray alone in older files.
  const DumpJson* values = FindField(json, "values");
  const DumpJson& array = values != nullptr ? *values : json;
  const DumpJson* text = FindField(array, "array");
  if (text == nullptr || !text->is_string())
    throw FormatError(file, place, "an array in base64", text == nullptr ? "none" : Describe(*text));
  const auto bytes = DecodeBase64(file, text->get_ref<const std::string&>());
  if (!bytes) throw FormatError(file, place, "base64 (RFC 4648)", "other text");
  TensorFile tensors{.format = "npy", .tensors = {}, .metadata = nlohmann::ordered_json::object(), .files = {bytes}};
  AddNpyArray(fmt::format("{}: {}", file, place), name, bytes->bytes(), tensors);
  DumpRecord record;
  record.name = name;
  record.step = step;
  record.tensor = std::move(tensors.tensors.front());
  dump.files.insert(dump.files.end(), tensors.files.begin(), tensors.files.end());
  dump.records.push_back(std::move(record));
}

}  // namespace

bool IsPolygraphyResults(const DumpJson& json) {
  for (const char* key : {"polygraphy_class", "_polygraphy_class"}) {
    const DumpJson* kind = FindField(json, key);
    if (kind != nullptr && *kind == "RunResults") return true;
  }
  return false;
}

Dump ReadPolygraphyResults(const DumpJson& json, const std::string& file) {
  Dump dump;
  dump.format = "polygraphy";
  dump.has_order = false;  // of the engine's outputs, not of execution
  const DumpJson* runners = FindField(json, "lst");
  if (runners == nullptr || !runners->is_array())
    throw FormatError(file, "lst", "a list of runners", runners == nullptr ? "no such key" : Describe(*runners));
  std::string others;
  for (const DumpJson& runner : *runners) {
    if (!runner.is_array() || runner.size() != 2 || !runner[0].is_string() || !runner[1].is_array())
      throw FormatError(file, "lst", "pairs of a runner's name and its iterations", Describe(runner));
    if (&runner != &runners->front()) {
      others += (others.empty() ? "" : ", ") + Quoted(runner[0].get<std::string>(), 40);
      continue;
    }
    int step = 0;
    for (const DumpJson& iteration : runner[1]) {
      const DumpJson* outputs = FindField(iteration, "outputs");
      if (outputs == nullptr || !outputs->is_object())
        throw FormatError(file, fmt::format("iteration {}", step), "an object as \"outputs\"", "none");
      // Iterations repeat one call on one input mostly; each is a step all the same.
      const DumpJson* inner = FindField(*outputs, "dct");  // older files keep the dictionary one level deeper
      for (const auto& [name, value] : (inner != nullptr && inner->is_object() ? *inner : *outputs).items()) {
        if (value.is_object()) AddArray(value, name, step, file, dump);
      }
      ++step;
    }
  }
  if (!others.empty()) dump.hint = fmt::format("{}: the first runner is read; the others are {}", file, others);
  return dump;
}

}  // namespace paritrace
