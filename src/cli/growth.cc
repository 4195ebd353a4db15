// paritrace growth REF SUB
#include <memory>

#include "cli/command.h"
#include "cli/outputs.h"
#include "compare/growth.h"
#include "report/growth_report.h"

namespace paritrace::cli {
namespace {

struct Options {
  std::string reference, subject;
  bool all = false;
  OutputOptions outputs;
};

int Run(const Options& options) {
  const Trace reference = OpenTrace(options.reference), subject = OpenTrace(options.subject);
  const GrowthResult result = CompareGrowth(reference, subject);
  constexpr std::size_t kMostRows = 24;
  WriteOutputs(options.outputs, {.json = GrowthToJson(result),
                                 .document = GrowthToDocument(result, options.all ? 0 : kMostRows),
                                 .checks = GrowthToChecks(result),
                                 .rule = "paritrace.growth",
                                 .uri = options.subject});
  return ExitCode(result.diff.verdict);
}

}  // namespace

void AddGrowth(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("growth", "how the error between two traces grows over layers and positions");
  auto options = std::make_shared<Options>();
  command->add_option("REF", options->reference, "trace that is trusted")->required();
  command->add_option("SUB", options->subject, "trace of the engine under test")->required();
  command->add_flag("--all", options->all, "show every layer and position");
  AddOutputOptions(*command, options->outputs);
  command->callback([options, &exit_code] { exit_code = Run(*options); });
}

}  // namespace paritrace::cli
