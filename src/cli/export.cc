// paritrace export TRACE -o FILE.safetensors
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "cli/command.h"
#include "cli/progress.h"
#include "core/error.h"
#include "trace/trace.h"
#include "trace/trace_writer.h"

namespace paritrace::cli {
namespace {

struct Options {
  std::string trace, output;
  bool overwrite = false;
};

int Run(const Options& options) {
  const Trace trace = OpenTrace(options.trace);
  for (const TraceEntry& entry : trace.entries) {
    if (entry.has_data()) continue;
    throw UsageError(fmt::format("{}: step {}, \"{}\": expected values, found a trace without them (digest or stats)",
                                 options.trace, entry.step, entry.name));
  }
  if (!options.output.ends_with(".safetensors"))
    throw UsageError(fmt::format("{}: expected a name that ends in .safetensors", options.output));
  auto header = trace.header.raw.is_object() ? trace.header.raw : nlohmann::ordered_json::object();
  TraceWriter writer(options.output, std::move(header), TraceWriter::Mode::kFull, options.overwrite);
  const auto line = ProgressLine("exporting");
  std::size_t done = 0;
  for (const TraceEntry& entry : trace.entries) {
    writer.Record(entry.step, entry.name, entry.site, entry.tensor);
    if (line) line(++done, trace.entries.size());
  }
  // Of a trace that was cut off, the file says so as well.
  if (trace.header.complete) writer.Close();
  return 0;
}

}  // namespace

void AddExport(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("export", "write a trace as one safetensors file");
  auto options = std::make_shared<Options>();
  command->add_option("TRACE", options->trace, "a directory, or one tensor file")->required();
  command->add_option("-o,--output", options->output, "file to write")->required()->type_name("FILE.safetensors");
  command->add_flag("--overwrite", options->overwrite, "replace an existing file");
  command->callback([options, &exit_code] { exit_code = Run(*options); });
}

}  // namespace paritrace::cli
