#include "formats/dump.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "core/path_inside.h"
#include "core/text.h"
#include "formats/bitnet_rs.h"
#include "formats/eval_callback.h"
#include "formats/hf_debug.h"
#include "formats/json.h"
#include "formats/json_fields.h"
#include "formats/msprobe.h"
#include "formats/npy.h"
#include "formats/polygraphy.h"
#include "formats/raw.h"

namespace paritrace {
namespace {

namespace fs = std::filesystem;

std::string_view TextOf(const InputFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

// A safetensors file may begin with any byte, but its eighth is the top of a length and zero; JSON has no zero byte.
bool LooksLikeJson(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos || (text[first] != '{' && text[first] != '[')) return false;
  return text.substr(0, 8).find('\0') == std::string_view::npos;
}

// Python's json writes NaN and Infinity, which are no JSON: null, so that the rest can be read.
std::string WithoutNonFinite(std::string_view text) {
  std::string out;
  bool in_string = false;
  for (std::size_t at = 0; at < text.size();) {
    if (in_string) {
      const std::size_t size = text[at] == '\\' && at + 1 < text.size() ? 2 : 1;
      in_string = size == 2 || text[at] != '"';
      out += text.substr(at, size);
      at += size;
      continue;
    }
    std::size_t word = 0;
    for (const std::string_view name : {"NaN", "Infinity", "-Infinity"}) {
      if (text.substr(at).starts_with(name)) word = name.size();
    }
    if (word > 0) {
      out += "null";
      at += word;
      continue;
    }
    in_string = text[at] == '"';
    out += text[at++];
  }
  return out;
}

// Several BitNet-rs records in one file: a list, or an object a line.
std::optional<Dump> ReadRecords(const std::vector<DumpJson>& records, const std::string& file) {
  if (records.empty() || !IsBitnetRsRecord(records.front())) return std::nullopt;
  Dump dump;
  dump.format = "bitnet-rs";
  dump.engine_name = "bitnet-rs";
  for (std::size_t i = 0; i < records.size(); ++i)
    dump.records.push_back(ReadBitnetRsRecord(records[i], file, fmt::format("record {}", i)));
  return dump;
}

// A file of one JSON object a line: text behind the first object that no single value may have.
std::optional<Dump> ReadLines(std::string_view text, const std::string& file) {
  std::vector<DumpJson> records;
  for (int line = 1; !text.empty(); ++line) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view content = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (content.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    records.push_back(ParseJson(content, file, fmt::format("line {}", line)));
  }
  return ReadRecords(records, file);
}

bool IsObjectALine(std::string_view text) {
  const std::size_t end = text.find('\n');
  if (end == std::string_view::npos) return false;
  const std::string_view line = text.substr(0, end);
  const std::size_t last = line.find_last_not_of(" \t\r");
  return line.starts_with('{') && last != std::string_view::npos && line[last] == '}' &&
         text.find_first_not_of(" \t\r\n", end) != std::string_view::npos;
}

std::vector<std::string> FilesIn(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
    names.push_back(entry->path().filename().string());
  if (error) throw UsageError(fmt::format("{}: cannot be read: {}", folder, error.message()));
  std::sort(names.begin(), names.end());
  return names;
}

Dump ReadBitnetRsFolder(const std::string& folder, const std::vector<std::string>& names) {
  Dump dump;
  dump.format = "bitnet-rs";
  dump.engine_name = "bitnet-rs";
  dump.has_order = false;  // a file a tensor
  for (const std::string& name : names) {
    if (!name.ends_with(".trace")) continue;
    const std::string path = PathInside(folder, name, folder, "folder");
    const auto file = MapFile(path);
    dump.records.push_back(ReadBitnetRsRecord(ParseJson(TextOf(*file), path, "record"), path, "record"));
  }
  return dump;
}

Dump ReadNpyFolder(const std::string& folder, const std::vector<std::string>& names) {
  Dump dump;
  dump.format = "npy folder";
  dump.has_order = false;
  for (const std::string& name : names) {
    if (!name.ends_with(".npy")) continue;
    const std::string path = PathInside(folder, name, folder, "folder");
    auto file = MapFile(path);
    auto tensors = TryReadNpy(file);
    if (!tensors) throw FormatError(path, 0, "an .npy array", "another format");
    DumpRecord record;
    record.name = name.substr(0, name.size() - 4);
    record.tensor = std::move(tensors->tensors.front());
    record.tensor.name = record.name;
    dump.files.insert(dump.files.end(), tensors->files.begin(), tensors->files.end());
    dump.records.push_back(std::move(record));
  }
  return dump;
}

std::optional<Dump> ReadFolder(const std::string& folder) {
  const std::vector<std::string> names = FilesIn(folder);
  const auto find = [&](std::string_view ending) {
    return std::find_if(names.begin(), names.end(), [&](const std::string& name) { return name.ends_with(ending); });
  };
  if (std::find(names.begin(), names.end(), "dump.json") != names.end())
    return ReadDump(MapFile(PathInside(folder, "dump.json", folder, "folder")), folder);
  for (const char* ending : {"_debug_tree_FULL_TENSORS.json", "_debug_tree_SUMMARY.json"}) {
    if (const auto name = find(ending); name != names.end())
      return ReadDump(MapFile(PathInside(folder, *name, folder, "folder")), folder);
  }
  if (find(".trace") != names.end()) return ReadBitnetRsFolder(folder, names);
  if (find(".npy") != names.end()) return ReadNpyFolder(folder, names);
  return std::nullopt;
}

}  // namespace

std::string_view Name(StatisticKind kind) {
  switch (kind) {
    case StatisticKind::kSum: return "sum";
    case StatisticKind::kMean: return "mean";
    case StatisticKind::kRms: return "rms";
    case StatisticKind::kStd: return "std";
    case StatisticKind::kNorm: return "norm";
    case StatisticKind::kMin: return "min";
    case StatisticKind::kMax: return "max";
  }
  return "";
}

std::optional<DType> ParseAnyDType(std::string_view text) {
  constexpr std::array kOthers = {
      std::pair{std::string_view("float64"), DType::kF64},
      std::pair{std::string_view("float32"), DType::kF32},
      std::pair{std::string_view("float16"), DType::kF16},
      std::pair{std::string_view("bfloat16"), DType::kBF16},
      std::pair{std::string_view("float8_e4m3fn"), DType::kF8E4M3},
      std::pair{std::string_view("float8_e5m2"), DType::kF8E5M2},
      std::pair{std::string_view("int8"), DType::kI8},
      std::pair{std::string_view("int16"), DType::kI16},
      std::pair{std::string_view("int32"), DType::kI32},
      std::pair{std::string_view("int64"), DType::kI64},
      std::pair{std::string_view("uint8"), DType::kU8},
      std::pair{std::string_view("uint16"), DType::kU16},
      std::pair{std::string_view("uint32"), DType::kU32},
      std::pair{std::string_view("uint64"), DType::kU64},
  };
  std::string name(text);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (name.starts_with("torch.")) name.erase(0, 6);
  if (const auto own = ParseDType(name)) return own;
  for (const auto& [other, dtype] : kOthers) {
    if (other == name) return dtype;
  }
  return std::nullopt;
}

void CheckShape(const Shape& shape, DType dtype, const std::string& file, std::string_view place) {
  constexpr std::size_t kMostAxes = 32;  // NumPy's limit for long; torch has 64
  if (shape.size() > kMostAxes)
    throw FormatError(file, place, fmt::format("at most {} axes", kMostAxes), fmt::format("{}", shape.size()));
  if (!ByteCount(shape, dtype)) throw FormatError(file, place, "a shape that fits in memory", ToString(shape));
}

std::optional<Dump> ReadDump(const std::shared_ptr<const InputFile>& file, const std::string& folder) {
  const std::string_view text = TextOf(*file);
  const std::string& name = file->name();
  if (LooksLikeJson(text)) {
    if (IsObjectALine(text)) return ReadLines(text, name);
    const DumpJson json = ParseJson(WithoutNonFinite(text), name, "JSON");
    if (IsPolygraphyResults(json)) return ReadPolygraphyResults(json, name);
    if (IsMsprobeDump(json)) return ReadMsprobeDump(json, name, folder);
    if (IsHfDebugTree(json)) return ReadHfDebugTree(json, name, folder);
    if (json.is_array()) return ReadRecords({json.begin(), json.end()}, name);
    return ReadRecords({json}, name);
  }
  if (text.substr(0, 8).find('\0') == std::string_view::npos && IsEvalCallbackLog(text))
    return ReadEvalCallbackLog(text, name);
  return std::nullopt;
}

std::optional<Dump> OpenDump(const std::string& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return ReadFolder(path);
  if (!fs::exists(path, ignored)) {
    if (const auto raw = ParseRawSpec(path)) return ReadRaw(*raw, MapFile(raw->path));
  }
  const fs::path parent = fs::path(path).parent_path();
  return ReadDump(MapFile(path), parent.empty() ? "." : parent.string());
}

}  // namespace paritrace
