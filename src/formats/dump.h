// What the readers of other programs' dumps return: tensors of which some come with all values, and others with no more
// than a hash, a few statistics, or the values that were printed.
// Kept apart from TensorFile, whose tensors always have their bytes: what a dump does not hold must never pass for values.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "core/tensor.h"

namespace paritrace {

// A value as a program printed it. The true value lies within `uncertainty` of it: half a unit of the last printed digit.
struct PrintedValue {
  std::int64_t index = 0;  // in the tensor's row-major order
  double value = 0;
  double uncertainty = 0;
};

// Over all values of the tensor. kStd is torch's: with n - 1.
enum class StatisticKind : std::uint8_t { kSum, kMean, kRms, kStd, kNorm, kMin, kMax };
[[nodiscard]] std::string_view Name(StatisticKind kind);

struct Statistic {
  StatisticKind kind = StatisticKind::kSum;
  double value = 0;
  double uncertainty = 0;      // of the print; infinite values have none
  bool summed_in_f32 = false;  // the program's own sum has an error that grows with the number of values
};

// What is known of a tensor whose values are not there.
struct Evidence {
  std::vector<PrintedValue> values;  // ascending by index, each once
  std::vector<Statistic> statistics;
};

struct DumpRecord {
  std::string name;  // as naming rules know it: the module path, or the graph's name and op
  int step = 0;
  TensorView tensor;  // bytes are empty where the dump has no values; shape and dtype always stand
  std::string hash;   // "blake3:" and 64 hex digits; "" where there is none
  std::shared_ptr<const Evidence> evidence;  // nullptr where the values are there, or nothing is known
};

struct Dump {
  std::string format;       // "bitnet-rs", "eval-callback", "hf-debug", "msprobe", "polygraphy", "npy folder", "raw"
  std::string engine_name;  // picks the naming rules; "" tries all
  std::string arithmetic;   // "" where the dump does not say
  std::vector<std::vector<std::int64_t>> tokens;
  std::vector<DumpRecord> records;  // in order of execution where has_order
  bool has_order = true;
  // One sentence for the user where the dump has more than this program reads; "" mostly.
  std::string hint;
  std::vector<std::shared_ptr<const InputFile>> files;  // keep the bytes alive
};

// Opens what is neither a trace of ours nor a tensor file: a folder or a file of one of the formats above, or
// "FILE:DTYPE:10x64" for raw values. docs/formats.md says how each is recognised.
// nullopt: it is none of them. Errors: UsageError (cannot be read, or needs the Python package), FormatError.
[[nodiscard]] std::optional<Dump> OpenDump(const std::string& path);

// The same for one file whose bytes are there; `folder` is where the files stand that it names ("" forbids any).
[[nodiscard]] std::optional<Dump> ReadDump(const std::shared_ptr<const InputFile>& file, const std::string& folder);

// A shape from a dump, checked: FormatError unless its bytes can be counted.
void CheckShape(const Shape& shape, DType dtype, const std::string& file, std::string_view place);

// Our dtype of a name as torch, NumPy and Rust write it ("torch.float32", "F32", "bf16"); nullopt for others.
[[nodiscard]] std::optional<DType> ParseAnyDType(std::string_view name);

}  // namespace paritrace
