#include "trace/repair.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>

#include <fmt/format.h>

#include "core/directory_lock.h"
#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/text.h"
#include "formats/safetensors.h"
#include "trace/trace.h"
#include "trace/trace_header.h"

namespace paritrace {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kLengthBytes = 8;

bool IsTensorsFile(const std::string& name) { return name.starts_with("tensors-") && name.ends_with(".safetensors"); }

// As OutputFile and WriteFileAtomically name what they have not yet put in place.
bool IsLeftOver(const std::string& name) {
  return name.ends_with(".tmp") && (name.starts_with("tensors-") || name.starts_with(kHeaderFile));
}

void Truncate(const std::string& path, std::uint64_t size) {
  std::error_code error;
  fs::resize_file(path, size, error);
  if (error) throw UsageError(fmt::format("{}: cannot be written: {}", path, error.message()));
}

void Overwrite(const std::string& path, std::uint64_t offset, const std::string& bytes) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(offset));
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file.flush()) throw UsageError(fmt::format("{}: cannot be written: {}", path, std::strerror(errno)));
}

// The header of what can be read of an unfinished file, as long as its place.
std::string HeaderOf(const TensorFile& file, const std::byte* data, std::uint64_t length) {
  std::string header = "{";
  for (const TensorView& tensor : file.tensors) {
    if (header.size() > 1) header += ',';
    header += SafetensorsEntry(tensor, static_cast<std::uint64_t>(tensor.bytes.data() - data));
  }
  if (!file.metadata.empty())
    header += fmt::format("{}\"{}\":{}", header.size() > 1 ? "," : "", kSafetensorsMetadataKey, file.metadata.dump());
  header += '}';
  if (header.size() > length) throw InternalError("a repaired header that is longer than the torn one");
  header.resize(length, ' ');
  return header;
}

bool IsWhole(const std::string& path) {
  try {
    return TryReadSafetensors(MapFile(path)).has_value();
  } catch (const FormatError&) {
    return false;
  }
}

void RepairTensors(const std::string& path, Repair& repair) {
  if (IsWhole(path)) return;
  std::string header;
  std::uint64_t end = kLengthBytes, size = 0;
  std::size_t tensors = 0;
  {
    const auto mapped = MapFile(path);
    const auto file = TryReadSafetensors(mapped, {.unfinished = true});
    if (!file) throw FormatError(path, 0, "a safetensors file", "another format");
    std::uint64_t length = 0;
    std::memcpy(&length, mapped->bytes().data(), sizeof length);
    const std::byte* const data = mapped->bytes().data() + kLengthBytes + length;
    header = HeaderOf(*file, data, length);
    end += length;
    for (const TensorView& tensor : file->tensors) {
      const auto last = static_cast<std::uint64_t>(tensor.bytes.data() + tensor.bytes.size() - mapped->bytes().data());
      if (!tensor.bytes.empty()) end = std::max(end, last);
    }
    tensors = file->tensors.size();
    size = mapped->bytes().size();
  }
  Overwrite(path, kLengthBytes, header);
  Truncate(path, end);
  repair.done.push_back(
      fmt::format("{}: header rewritten for {} tensors, {} bytes behind them cut off", path, tensors, size - end));
}

// A line without its end was being written. An engine that was cut off between a page and the next leaves only that.
void RepairIndex(const std::string& path, Repair& repair) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return;
  std::uint64_t whole = 0, size = 0;
  {
    const auto file = MapFile(path);
    const std::string_view text(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
    size = text.size();
    const std::size_t last = text.rfind('\n');
    whole = last == std::string_view::npos ? 0 : last + 1;
    repair.lines = static_cast<int>(std::count(text.begin(), text.end(), '\n'));
  }
  if (whole == size) return;
  Truncate(path, whole);
  repair.done.push_back(fmt::format("{}: {} bytes of an unfinished line cut off", path, size - whole));
}

void CheckHashes(const std::string& path, Repair& repair) {
  const Trace trace = OpenTrace(path);
  for (const TraceEntry& entry : trace.entries) {
    if (entry.hash.empty() || !entry.has_data() || !entry.hash.starts_with("xxh3:")) continue;
    if (entry.hash == HashBytes(entry.tensor.bytes)) continue;
    repair.mistakes.push_back(fmt::format("{}: step {}, {}: expected {}, found {}", path, entry.step,
                                          Quoted(entry.name), entry.hash, HashBytes(entry.tensor.bytes)));
  }
}

}  // namespace

Repair RepairTrace(const std::string& path) {
  Repair repair;
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    RepairTensors(path, repair);
    return repair;
  }
  if (!fs::exists(fs::path(path) / kHeaderFile, error))
    throw UsageError(fmt::format("{}: is no trace: it has no {}", path, kHeaderFile));
  const auto lock = DirectoryLock::Try(path);
  if (!lock) throw UsageError(fmt::format("{}: is still being written", path));
  RepairIndex((fs::path(path) / kIndexFile).string(), repair);
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(path, error)) {
    if (entry.is_regular_file(error) && !entry.is_symlink(error)) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) {
    const std::string name = file.filename().string();
    if (IsTensorsFile(name)) RepairTensors(file.string(), repair);
    if (IsLeftOver(name) && fs::remove(file, error)) {
      repair.done.push_back(fmt::format("{}: removed, it was not yet in place", file.string()));
    }
  }
  CheckHashes(path, repair);
  return repair;
}

}  // namespace paritrace
