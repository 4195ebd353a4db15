#include "cli/copy_trace.h"

#include <utility>

#include <fmt/format.h>

#include "cli/progress.h"
#include "core/error.h"
#include "trace/trace.h"

namespace paritrace::cli {

void AddCopyOptions(CLI::App& command, CopyOptions& options, const std::string& form) {
  const std::string what = form.ends_with(".safetensors") ? "file" : "directory";
  command.add_option("TRACE", options.trace, "a directory, or one tensor file")->required();
  command.add_option("-o,--output", options.output, what + " to write")->required()->type_name(form);
  command.add_flag("--overwrite", options.overwrite,
                   what == "file" ? "replace an existing file" : "replace an existing trace");
}

void CopyTrace(const CopyOptions& options, TraceWriter::Mode mode, const std::string& doing) {
  const Trace trace = OpenTrace(options.trace);
  for (const TraceEntry& entry : trace.entries) {
    if (entry.has_data()) continue;
    throw UsageError(fmt::format("{}: step {}, \"{}\": expected values, found a trace without them (digest or stats)",
                                 options.trace, entry.step, entry.name));
  }
  auto header = trace.header.raw.is_object() ? trace.header.raw : nlohmann::ordered_json::object();
  TraceWriter writer(options.output, std::move(header), mode, options.overwrite);
  const auto line = ProgressLine(doing);
  std::size_t done = 0;
  for (const TraceEntry& entry : trace.entries) {
    writer.Record(entry.step, entry.name, entry.site, entry.tensor);
    if (line) line(++done, trace.entries.size());
  }
  // Of a trace that was cut off, the copy says so as well.
  if (trace.header.complete) writer.Close();
}

}  // namespace paritrace::cli
