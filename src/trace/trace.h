// A trace in memory: the header, and one entry a recorded tensor, whose values stay in the mapped files.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/file.h"
#include "core/tensor.h"
#include "formats/dump.h"

namespace paritrace {

struct TraceStep {
  int step = 0;
  std::int64_t start = 0;  // position of the step's first token
  std::int64_t count = 0;  // tokens in the step
};

struct TraceHeader {
  std::string engine_name, engine_version;
  std::string model_name, model_architecture, model_file;
  std::string arithmetic;                         // "" where the engine does not say
  std::vector<std::vector<std::int64_t>> tokens;  // one list a sequence, decode steps included; empty: unknown
  std::vector<TraceStep> steps;                   // empty: unknown
  bool complete = true;                           // "status" is not "open"
  nlohmann::ordered_json raw;  // as it stands in the file, unknown keys included; {} if there is none
};

struct TraceEntry {
  std::int64_t seq = 0;
  int step = 0;
  std::string name;   // the engine's own
  std::string site;   // canonical; "" where nothing maps it
  TensorView tensor;  // tensor.bytes is empty in a digest trace; shape and dtype always stand
  std::string hash;
  nlohmann::ordered_json stats;  // null where none
  std::string sketch;
  // Of somebody else's dump: what it tells of a tensor whose values it lacks. nullptr where there is nothing.
  std::shared_ptr<const Evidence> evidence;
  std::string
      pair_as;  // in no file: with a map of names, pairs with what has the same in the other trace, nothing else
  [[nodiscard]] bool has_data() const { return !tensor.bytes.empty() || tensor.size() == 0; }
};

struct Trace {
  std::string path;
  std::string format;  // "directory", or the single file's: "safetensors", "npz", "gguf", …
  TraceHeader header;
  nlohmann::ordered_json metadata;  // a single file's own key-value data, our header included; {} for a directory
  std::vector<TraceEntry> entries;  // in order of execution where the trace knows it, else by step and ExecutionRank
  std::string hint;                 // a sentence for the user, where the file holds more than could be read; "" mostly
  bool has_order = true;            // false for a single file: order comes from the graph
  std::vector<std::shared_ptr<const InputFile>> files;

  // The first entry of that step and site that is recorded; nullptr if there is none.
  [[nodiscard]] const TraceEntry* Find(int step, std::string_view site) const;
  // Steps present in the entries, ascending.
  [[nodiscard]] std::vector<int> Steps() const;
};

// Opens a trace directory, a single file (anybody's: keys `name` or `step/name`; .safetensors, or any other tensor file), or
// another program's dump (formats/dump.h).
// Names without a site are mapped through the naming rules (naming.h): those of the header's engine, or all of them where
// the engine has none or is unknown.
// Errors: UsageError, FormatError as in tensor_file.h; also FormatError where the index and the tensor files disagree, or
// where the index names a file outside the directory. A torn last index line of an open trace is ignored, not an error.
[[nodiscard]] Trace OpenTrace(const std::string& path);

}  // namespace paritrace
