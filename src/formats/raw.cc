#include "formats/raw.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "core/text.h"
#include "formats/owned_bytes.h"

namespace paritrace {
namespace {

std::optional<Shape> ParseShape(std::string_view text) {
  Shape shape;
  while (!text.empty()) {
    std::int64_t size = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), size);
    if (error != std::errc() || size < 0) return std::nullopt;
    shape.push_back(size);
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    if (text.empty()) return shape;
    if (text.front() != 'x' && text.front() != ',') return std::nullopt;
    text.remove_prefix(1);
  }
  return std::nullopt;
}

template <typename T>
std::shared_ptr<OwnedBytes> ParseText(const InputFile& file, std::int64_t count, const Shape& shape) {
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  // A value takes two characters at least, so that the claim is checked before it is believed.
  const std::string expected = fmt::format("{} numbers, as {} has", count, ToString(shape));
  if (static_cast<std::uint64_t>(count) > text.size() / 2 + 1)
    throw FormatError(file.name(), "end of file", expected, fmt::format("{} bytes of text", text.size()));
  auto out = std::make_shared<OwnedBytes>(file.name(), static_cast<std::size_t>(count) * sizeof(T));
  std::int64_t found = 0;
  for (std::size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == ',') {
      ++at;
      continue;
    }
    T value;
    const auto [end, error] = std::from_chars(text.data() + at, text.data() + text.size(), value);
    if (error != std::errc())
      throw FormatError(file.name(), at, fmt::format("a number {} can hold", sizeof(T) == 4 ? "f32" : "f64"),
                        Quoted(text.substr(at, 20)));
    if (found == count) throw FormatError(file.name(), at, expected, "more");
    std::memcpy(out->writable().data() + found++ * static_cast<std::int64_t>(sizeof(T)), &value, sizeof(T));
    at = static_cast<std::size_t>(end - text.data());
  }
  if (found != count) throw FormatError(file.name(), "end of file", expected, fmt::format("{}", found));
  return out;
}

}  // namespace

std::optional<RawSpec> ParseRawSpec(const std::string& text) {
  const std::size_t second = text.rfind(':');
  if (second == std::string::npos || second == 0) return std::nullopt;
  const std::size_t first = text.rfind(':', second - 1);
  if (first == std::string::npos || first == 0) return std::nullopt;
  const auto dtype = ParseAnyDType(text.substr(first + 1, second - first - 1));
  const auto shape = ParseShape(std::string_view(text).substr(second + 1));
  if (!dtype || !shape) return std::nullopt;
  return RawSpec{text.substr(0, first), *dtype, *shape};
}

Dump ReadRaw(const RawSpec& spec, const std::shared_ptr<const InputFile>& file) {
  CheckShape(spec.shape, spec.dtype, spec.path, "the shape given");
  Dump dump;
  dump.format = "raw";
  dump.has_order = false;
  DumpRecord record;
  const std::filesystem::path path(spec.path);
  record.name = record.tensor.name = path.stem().string();
  record.tensor.dtype = spec.dtype;
  record.tensor.shape = spec.shape;
  const std::string ending = path.extension().string();
  if (ending == ".txt" || ending == ".csv") {
    if (spec.dtype != DType::kF32 && spec.dtype != DType::kF64)
      throw UsageError(fmt::format("{}: text holds f32 or f64, not {}", spec.path, Name(spec.dtype)));
    const auto owned = spec.dtype == DType::kF32 ? ParseText<float>(*file, record.tensor.size(), spec.shape)
                                                 : ParseText<double>(*file, record.tensor.size(), spec.shape);
    record.tensor.bytes = owned->bytes();
    dump.files.push_back(owned);
  } else {
    const auto wanted = static_cast<std::uint64_t>(*ByteCount(spec.shape, spec.dtype));
    if (wanted != file->bytes().size()) {
      throw FormatError(spec.path, "end of file",
                        fmt::format("{} bytes ({} {})", wanted, Name(spec.dtype), ToString(spec.shape)),
                        fmt::format("{}", file->bytes().size()));
    }
    record.tensor.bytes = file->bytes();
    dump.files.push_back(file);
  }
  dump.records.push_back(std::move(record));
  return dump;
}

}  // namespace paritrace
