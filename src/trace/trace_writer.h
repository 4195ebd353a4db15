// Writes a trace directory as in the format's description (docs/trace-format.md), tensor by tensor.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "core/tensor.h"

namespace paritrace {

class TraceWriter {
 public:
  enum class Mode { kFull, kDigest, kStats };

  // Creates `directory` (or the single file, if it ends in ".safetensors"). An existing trace there is replaced only
  // with `overwrite`; anything else there is never touched.
  // header: the keys of trace.json that the caller knows; "format" and "status" are filled in.
  // Errors: UsageError if it exists or cannot be written.
  TraceWriter(std::string path, nlohmann::ordered_json header, Mode mode = Mode::kFull, bool overwrite = false);
  ~TraceWriter();  // an unclosed trace stays "open"
  TraceWriter(const TraceWriter&) = delete;
  TraceWriter& operator=(const TraceWriter&) = delete;

  // Appends one tensor. `site` may be "": the naming rules of header.engine.name are tried when the trace is read.
  // The bytes are copied or written before the call returns.
  void Record(int step, std::string_view name, std::string_view site, const TensorView& tensor);

  // Merges into the header: tokens and steps are often known only at the end.
  void UpdateHeader(const nlohmann::ordered_json& header);

  // Marks the trace complete. Further calls are errors.
  void Close();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace paritrace
