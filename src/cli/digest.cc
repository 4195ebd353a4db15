// paritrace digest TRACE -o OUT
#include <memory>

#include "cli/command.h"
#include "cli/copy_trace.h"

namespace paritrace::cli {

void AddDigest(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("digest", "keep hashes, statistics and sketches of a trace, not its values");
  auto options = std::make_shared<CopyOptions>();
  AddCopyOptions(*command, *options, "OUT");
  command->callback([options, &exit_code] {
    CopyTrace(*options, TraceWriter::Mode::kDigest, "digesting");
    exit_code = 0;
  });
}

}  // namespace paritrace::cli
