// paritrace export TRACE -o FILE.safetensors
#include <memory>

#include <fmt/format.h>

#include "cli/command.h"
#include "cli/copy_trace.h"
#include "core/error.h"

namespace paritrace::cli {

void AddExport(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("export", "write a trace as one safetensors file");
  auto options = std::make_shared<CopyOptions>();
  AddCopyOptions(*command, *options, "FILE.safetensors");
  command->callback([options, &exit_code] {
    if (!options->output.ends_with(".safetensors"))
      throw UsageError(fmt::format("{}: expected a name that ends in .safetensors", options->output));
    CopyTrace(*options, TraceWriter::Mode::kFull, "exporting");
    exit_code = 0;
  });
}

}  // namespace paritrace::cli
