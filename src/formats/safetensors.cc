#include "formats/safetensors.h"

#include <algorithm>
#include <array>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/error.h"
#include "core/output_file.h"
#include "core/text.h"
#include "formats/json.h"
#include "formats/safetensors_salvage.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeader = 100'000'000;  // the reference reader's own limit
constexpr int kMaxDepth = 3;                       // header, entry, shape
constexpr std::string_view kHeader = "header";

constexpr std::array kNames = {
    std::pair{DType::kF64, std::string_view("F64")},        std::pair{DType::kF32, std::string_view("F32")},
    std::pair{DType::kF16, std::string_view("F16")},        std::pair{DType::kBF16, std::string_view("BF16")},
    std::pair{DType::kF8E4M3, std::string_view("F8_E4M3")}, std::pair{DType::kF8E5M2, std::string_view("F8_E5M2")},
    std::pair{DType::kI8, std::string_view("I8")},          std::pair{DType::kI16, std::string_view("I16")},
    std::pair{DType::kI32, std::string_view("I32")},        std::pair{DType::kI64, std::string_view("I64")},
    std::pair{DType::kU8, std::string_view("U8")},          std::pair{DType::kU16, std::string_view("U16")},
    std::pair{DType::kU32, std::string_view("U32")},        std::pair{DType::kU64, std::string_view("U64")},
    std::pair{DType::kBool, std::string_view("BOOL")},
};

struct Range {
  std::uint64_t begin, end;
  std::size_t tensor;
};

// Reads one header entry; every error names the tensor.
class EntryReader {
 public:
  EntryReader(const InputFile& file, const std::string& name, const Json& entry)
      : file_(file), place_("tensor " + Quoted(name)), entry_(entry) {
    if (!entry.is_object()) throw FormatError(file.name(), place_, "an object", Describe(entry));
  }

  DType ReadDType() const {
    const Json& value = Member("dtype");
    for (const auto& [dtype, name] : kNames) {
      if (value.is_string() && value.get_ref<const std::string&>() == name) return dtype;
    }
    throw FormatError(file_.name(), place_, "a dtype such as \"F32\"", Describe(value));
  }

  Shape ReadShape() const {
    const Json& value = Member("shape");
    if (!value.is_array()) throw FormatError(file_.name(), place_, "a list as \"shape\"", Describe(value));
    Shape shape;
    for (const Json& axis : value) shape.push_back(static_cast<std::int64_t>(Count(axis, "a size in \"shape\"")));
    return shape;
  }

  // Checked against the size that shape and dtype ask for and against the file.
  Range ReadRange(std::uint64_t wanted, std::uint64_t data_size) const {
    const Json& value = Member("data_offsets");
    if (!value.is_array() || value.size() != 2) {
      throw FormatError(file_.name(), place_, "[begin, end] as \"data_offsets\"", Describe(value));
    }
    const std::uint64_t begin = Count(value[0], "an offset"), end = Count(value[1], "an offset");
    if (end < begin || end - begin != wanted) {
      throw FormatError(file_.name(), place_, fmt::format("{} bytes between its data_offsets", wanted),
                        fmt::format("[{}, {}]", begin, end));
    }
    if (end > data_size) {
      throw FormatError(file_.name(), place_, fmt::format("data_offsets within {} bytes of data", data_size),
                        fmt::format("[{}, {}]", begin, end));
    }
    return {begin, end, 0};
  }

  [[nodiscard]] bool IsWithin(std::uint64_t data_size) const {
    const Json& value = Member("data_offsets");
    return !value.is_array() || value.size() != 2 || Count(value[1], "an offset") <= data_size;
  }

  [[nodiscard]] const std::string& place() const { return place_; }

 private:
  [[nodiscard]] const Json& Member(const char* key) const {
    const auto found = entry_.find(key);
    if (found == entry_.end()) throw FormatError(file_.name(), place_, fmt::format("\"{}\"", key), "no such key");
    return *found;
  }

  [[nodiscard]] std::uint64_t Count(const Json& value, std::string_view what) const {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > INT64_MAX) {
      throw FormatError(file_.name(), place_, what, Describe(value));
    }
    return value.get<std::uint64_t>();
  }

  const InputFile& file_;
  std::string place_;
  const Json& entry_;
};

Json ReadMetadata(const InputFile& file, const Json& metadata) {
  if (!metadata.is_object()) throw FormatError(file.name(), kSafetensorsMetadataKey, "an object", Describe(metadata));
  for (const auto& [key, value] : metadata.items()) {
    if (!value.is_string()) {
      throw FormatError(file.name(), kSafetensorsMetadataKey, "a string as " + Quoted(key), Describe(value));
    }
  }
  return metadata;
}

Json ReadHeader(std::string_view text, const std::string& file, bool unfinished) {
  if (!unfinished) return ParseJson(text, file, kHeader, kMaxDepth);
  // From a copy: the writer may be at work on the mapped bytes.
  const std::string copy(text);
  try {
    return ParseJson(copy, file, kHeader, kMaxDepth);
  } catch (const FormatError&) {
    for (const std::string& part : SalvagedHeaders(copy)) {
      try {
        return ParseJson(part, file, kHeader, kMaxDepth);
      } catch (const FormatError&) {
        continue;
      }
    }
    throw;
  }
}

// Tensors must cover the data without gap or overlap: a gap hides data, an overlap makes two tensors of one.
void CheckCoverage(const TensorFile& result, std::vector<Range> ranges, std::uint64_t data_size, bool allow_trailing) {
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);  // an empty tensor before the one that starts there
  });
  const std::string& file = result.files.front()->name();
  std::uint64_t covered = 0;
  for (const Range& range : ranges) {
    if (range.begin != covered) {
      throw FormatError(file, "tensor " + Quoted(result.tensors[range.tensor].name),
                        fmt::format("data to begin at {}, where the one before ends", covered),
                        fmt::format("{}", range.begin));
    }
    covered = range.end;
  }
  if (covered != data_size && !allow_trailing) {
    throw FormatError(file, kHeader, fmt::format("tensors that cover all {} bytes of data", data_size),
                      fmt::format("{} bytes covered", covered));
  }
}

}  // namespace

std::optional<TensorFile> TryReadSafetensors(std::shared_ptr<const InputFile> file, const SafetensorsOptions& options) {
  const auto all = file->bytes();
  if (all.size() <= kLengthBytes || all[kLengthBytes] != std::byte{'{'}) return std::nullopt;

  ByteReader bytes(file->name(), all);
  const auto length = bytes.Read<std::uint64_t>("header length");
  if (length > kMaxHeader) {
    throw FormatError(file->name(), 0, fmt::format("a header of at most {} bytes", kMaxHeader),
                      fmt::format("{}", length));
  }
  const auto text = bytes.Take(length, "header");
  const Json header =
      ReadHeader({reinterpret_cast<const char*>(text.data()), text.size()}, file->name(), options.unfinished);
  const auto data = bytes.Take(bytes.left(), "data");

  TensorFile result{.format = "safetensors", .tensors = {}, .metadata = Json::object(), .files = {file}};
  std::vector<Range> ranges;
  for (const auto& [name, entry] : header.items()) {
    if (name == kSafetensorsMetadataKey) {
      result.metadata = ReadMetadata(*file, entry);
      continue;
    }
    const EntryReader reader(*file, name, entry);
    TensorView tensor{name, reader.ReadDType(), reader.ReadShape(), {}};
    const auto size = ByteCount(tensor.shape, tensor.dtype);
    if (!size) throw FormatError(file->name(), reader.place(), "a shape that fits in memory", ToString(tensor.shape));
    // The writer may have come further since the file was opened.
    if (options.unfinished && !reader.IsWithin(data.size())) continue;
    Range range = reader.ReadRange(static_cast<std::uint64_t>(*size), data.size());
    range.tensor = result.tensors.size();
    tensor.bytes = data.subspan(range.begin, range.end - range.begin);
    ranges.push_back(range);
    result.tensors.push_back(std::move(tensor));
  }
  CheckCoverage(result, std::move(ranges), data.size(), options.unfinished);
  return result;
}

std::optional<std::string_view> SafetensorsName(DType dtype) {
  for (const auto& [known, name] : kNames) {
    if (known == dtype) return name;
  }
  return std::nullopt;
}

std::string SafetensorsEntry(const TensorView& tensor, std::uint64_t begin) {
  const auto dtype = SafetensorsName(tensor.dtype);
  if (!dtype) {
    throw UsageError(fmt::format("tensor {}: safetensors has no dtype {}", Quoted(tensor.name), Name(tensor.dtype)));
  }
  // Written by hand: the keys' order is fixed, and only the name needs escaping. Bytes that are no UTF-8 are replaced.
  return fmt::format(R"({}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                     Json(tensor.name).dump(-1, ' ', false, Json::error_handler_t::replace), *dtype,
                     fmt::join(tensor.shape, ","), begin, begin + tensor.bytes.size());
}

void WriteSafetensors(const std::string& path, std::span<const TensorView> tensors, const Json& metadata) {
  std::string header = "{";
  std::unordered_set<std::string_view> names = {kSafetensorsMetadataKey};
  if (!metadata.empty()) header += fmt::format("\"{}\":{},", kSafetensorsMetadataKey, metadata.dump());
  std::uint64_t offset = 0;
  for (const TensorView& tensor : tensors) {
    if (!names.insert(tensor.name).second) {
      throw UsageError(fmt::format("{}: cannot be written: two tensors are called {}", path, Quoted(tensor.name)));
    }
    header += SafetensorsEntry(tensor, offset) + ",";
    offset += tensor.bytes.size();
  }
  if (header.back() == ',') header.pop_back();
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');  // data then starts aligned

  OutputFile file(path, OutputFile::Mode::kAtomic);
  const std::uint64_t length = header.size();
  file.Append(std::as_bytes(std::span(&length, 1)));
  file.Append(header);
  for (const TensorView& tensor : tensors) file.Append(tensor.bytes);
  file.Commit();
}

}  // namespace paritrace
