// What is fuzzed, one function a format; for libFuzzer (x_fuzz.cc) and for the replay of the corpus (fuzz_corpus_test.cc).
// FormatError and UsageError are how bad input ends; any other exception, and whatever a sanitizer says, is our bug.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <fmt/format.h>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "formats/dump.h"
#include "formats/gguf.h"
#include "formats/npy.h"
#include "formats/npz.h"
#include "formats/owned_bytes.h"
#include "formats/raw.h"
#include "formats/safetensors.h"
#include "trace/tensor_stats.h"
#include "trace/trace.h"

namespace paritrace::fuzz {

using Input = std::span<const std::uint8_t>;

// Exactly these bytes on the heap: one byte too far is seen.
inline std::shared_ptr<const InputFile> AsFile(Input input) {
  auto file = std::make_shared<OwnedBytes>("fuzz", input.size());
  if (!input.empty()) std::memcpy(file->writable().data(), input.data(), input.size());
  return file;
}

// Reads all that a reader promises, and decodes it.
inline void Touch(const TensorView& tensor) {
  if (ByteCount(tensor.shape, tensor.dtype) != static_cast<std::int64_t>(tensor.bytes.size())) std::abort();
  (void)HashBytes(tensor.bytes);
  try {
    (void)TensorStats(tensor);
  } catch (const UsageError&) {  // no decoder for this type yet
  }
}

template <typename Read>
void Run(Input input, const Read& read) {
  try {
    const std::optional<TensorFile> file = read(AsFile(input));
    if (!file) return;
    (void)file->metadata.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
    for (const TensorView& tensor : file->tensors) Touch(tensor);
  } catch (const FormatError&) {
  }
}

inline void Safetensors(Input input) {
  Run(input, [](std::shared_ptr<const InputFile> file) { return TryReadSafetensors(std::move(file)); });
}
inline void Npy(Input input) { Run(input, &TryReadNpy); }
inline void Npz(Input input) { Run(input, &TryReadNpz); }
inline void Gguf(Input input) { Run(input, &TryReadGguf); }

inline void Touch(const Dump& dump) {
  for (const DumpRecord& record : dump.records) {
    if (!record.tensor.bytes.empty()) Touch(record.tensor);
    if (!record.evidence) continue;
    std::int64_t last = -1;
    for (const PrintedValue& value : record.evidence->values) {
      if (value.index <= last || value.index >= record.tensor.size()) std::abort();
      last = value.index;
    }
  }
}

// All dumps that are one file come in by the same door; each has a corpus of its own.
inline void OtherDump(Input input) {
  try {
    if (const std::optional<Dump> dump = ReadDump(AsFile(input), "")) Touch(*dump);
  } catch (const FormatError&) {
  }
}

// Raw values: the first line is "DTYPE:SHAPE", the rest the file, as text where the dtype is f32 or f64 and a byte says so.
inline void Raw(Input input) {
  const std::string_view text(reinterpret_cast<const char*>(input.data()), input.size());
  const std::size_t end = std::min(text.find('\n'), text.size());
  auto spec = ParseRawSpec("x.bin:" + std::string(text.substr(0, end)));
  if (!spec) return;
  const Input rest = input.subspan(std::min(end + 1, input.size()));
  for (const char* name : {"x.bin", "x.txt"}) {
    spec->path = name;
    try {
      Touch(ReadRaw(*spec, AsFile(rest)));
    } catch (const FormatError&) {
    } catch (const UsageError&) {
    }
  }
}

// A scratch trace directory with one sound tensor file, gone when the program ends.
class ScratchTrace {
 public:
  ScratchTrace() : path_(std::filesystem::temp_directory_path() / fmt::format("paritrace_fuzz_{}", ::getpid())) {
    static constexpr float kValues[3] = {1, 2, 3};
    std::filesystem::create_directories(path_);
    WriteSafetensors(File("t.safetensors"),
                     std::vector<TensorView>{{"x", DType::kF32, {3}, std::as_bytes(std::span(kValues))}});
  }
  ~ScratchTrace() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchTrace(const ScratchTrace&) = delete;
  ScratchTrace& operator=(const ScratchTrace&) = delete;

  [[nodiscard]] std::string path() const { return path_.string(); }
  [[nodiscard]] std::string File(const char* name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

// A trace directory: the first line of the input is trace.json, the rest index.jsonl.
inline void TraceDirectory(Input input) {
  static const ScratchTrace directory;
  const std::string_view text(reinterpret_cast<const char*>(input.data()), input.size());
  const std::size_t end = std::min(text.find('\n'), text.size());
  WriteFileAtomically(directory.File("trace.json"), text.substr(0, end));
  WriteFileAtomically(directory.File("index.jsonl"), end < text.size() ? text.substr(end + 1) : "");
  try {
    const Trace trace = OpenTrace(directory.path());
    for (const TraceEntry& entry : trace.entries) {
      if (!entry.tensor.bytes.empty()) Touch(entry.tensor);
    }
  } catch (const FormatError&) {
  } catch (const UsageError&) {
  }
}

}  // namespace paritrace::fuzz
