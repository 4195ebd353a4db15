// paritrace weights A B
#include <memory>
#include <mutex>

#include "cli/command.h"
#include "cli/outputs.h"
#include "cli/progress.h"
#include "compare/weights.h"
#include "report/weights_report.h"

namespace paritrace::cli {
namespace {

struct Options {
  std::string reference, subject;
  bool all = false;
  OutputOptions outputs;
};

int Run(const Options& options) {
  WeightSource reference = OpenWeights(options.reference), subject = OpenWeights(options.subject);
  const auto line = ProgressLine("comparing", "values");
  std::mutex one_at_a_time;
  std::function<void(std::int64_t, std::int64_t)> progress;
  if (line) {
    progress = [&](std::int64_t done, std::int64_t total) {
      const std::scoped_lock lock(one_at_a_time);
      line(static_cast<std::size_t>(done), static_cast<std::size_t>(total));
    };
  }
  const WeightsResult result = CompareWeights(std::move(reference), std::move(subject), progress);
  WriteOutputs(options.outputs, {.json = WeightsToJson(result),
                                 .document = WeightsToDocument(result, options.all),
                                 .checks = WeightsToChecks(result),
                                 .rule = "paritrace.weights",
                                 .uri = options.subject});
  return ExitCode(result.verdict);
}

}  // namespace

void AddWeights(CLI::App& app, int& exit_code) {
  CLI::App* command =
      app.add_subcommand("weights", "compare the weights of two files, folders or traces, tensor by tensor");
  auto options = std::make_shared<Options>();
  command
      ->add_option("A", options->reference,
                   "weights that are trusted: a model folder, a .gguf, a .safetensors or a trace")
      ->required();
  command->add_option("B", options->subject, "weights under test")->required();
  command->add_flag("--all", options->all, "show every tensor");
  AddOutputOptions(*command, options->outputs);
  command->callback([options, &exit_code] { exit_code = Run(*options); });
}

}  // namespace paritrace::cli
