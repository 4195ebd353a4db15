// Writes a trace directory as in the format's description (docs/trace-format.md), tensor by tensor.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/tensor.h"

namespace paritrace {

// A trace stands there that may not be replaced, or is being written.
class TraceTakenError : public UsageError {
 public:
  using UsageError::UsageError;
};

// In a directory that several processes share, all but the first have a folder of their own, a whole trace each.
inline constexpr std::string_view kRankFolder = "rank-";

class TraceWriter {
 public:
  enum class Mode { kFull, kDigest, kStats };

  // Creates `directory` (or the single file, if it ends in ".safetensors"). An existing trace there is replaced only
  // with `overwrite`; anything else there is never touched. A directory is locked until the writer is gone.
  // header: the keys of trace.json that the caller knows; "format" and "status" are filled in.
  // Errors: UsageError if it exists or cannot be written; TraceTakenError where that is a trace.
  TraceWriter(std::string path, nlohmann::ordered_json header, Mode mode = Mode::kFull, bool overwrite = false);
  ~TraceWriter();  // an unclosed trace stays "open"
  TraceWriter(const TraceWriter&) = delete;
  TraceWriter& operator=(const TraceWriter&) = delete;

  // Appends one tensor. `site` may be "": the naming rules of header.engine.name are tried when the trace is read.
  // The bytes are written before the call returns.
  void Record(int step, std::string_view name, std::string_view site, const TensorView& tensor);

  // Record in two halves. Describe does what takes time and needs no order: hash, statistics, sketch; it may run in
  // several threads at once. Append gives the tensor its place, and is for one thread at a time.
  struct Entry {
    nlohmann::ordered_json index;  // its line, its place and that of its values apart
    TensorView tensor;             // points to the values; named by its key, which Append makes unique
  };
  [[nodiscard]] Entry Describe(int step, std::string_view name, std::string_view site, const TensorView& tensor) const;
  void Append(Entry entry);

  [[nodiscard]] Mode mode() const;

  // Merges into the header: tokens and steps are often known only at the end.
  void UpdateHeader(const nlohmann::ordered_json& header);

  // Marks the trace complete. Further calls are errors.
  void Close();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace paritrace
