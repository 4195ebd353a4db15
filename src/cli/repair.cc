// paritrace repair TRACE
#include <memory>

#include <fmt/format.h>

#include "cli/command.h"
#include "trace/repair.h"

namespace paritrace::cli {
namespace {

int Run(const std::string& trace) {
  const Repair repair = RepairTrace(trace);
  for (const std::string& line : repair.done) fmt::print("{}\n", line);
  for (const std::string& line : repair.mistakes) fmt::print(stderr, "paritrace: {}\n", line);
  if (repair.done.empty()) fmt::print("{}: nothing to repair\n", trace);
  return repair.mistakes.empty() ? 0 : 2;
}

}  // namespace

void AddRepair(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("repair", "make the files of a trace whose engine was killed open everywhere");
  auto trace = std::make_shared<std::string>();
  command->add_option("TRACE", *trace, "a directory, or one .safetensors file")->required();
  command->callback([trace, &exit_code] { exit_code = Run(*trace); });
}

}  // namespace paritrace::cli
