// What `show` prints: a trace or tensor file as a table, one tensor as statistics and a corner of its values.
#pragma once

#include <string>

#include "trace/trace.h"

namespace paritrace::cli {

struct TextStyle {
  std::size_t width;  // columns to keep to
  bool colour;
};

// True if it says something about a run: a directory, a file with our header, or names that are sites.
[[nodiscard]] bool IsRecording(const Trace& trace);

// {"min","max","mean","rms","nan","inf"} from the index, else from the values; null where there are neither.
[[nodiscard]] nlohmann::ordered_json StatsOf(const TraceEntry& entry);

// Header or metadata, then one line a tensor.
[[nodiscard]] std::string RenderTrace(const Trace& trace, const TextStyle& style);

// One tensor. Errors: UsageError if its dtype cannot be decoded.
[[nodiscard]] std::string RenderEntry(const Trace& trace, const TraceEntry& entry, const TextStyle& style);

}  // namespace paritrace::cli
