// paritrace logits REF SUB
#include <memory>

#include "cli/command.h"
#include "cli/outputs.h"
#include "compare/logits.h"
#include "formats/vocabulary.h"
#include "report/logits_report.h"

namespace paritrace::cli {
namespace {

struct Options {
  std::string reference, subject, tokenizer;
  int top_k = 10;
  bool all = false;
  OutputOptions outputs;
};

// A model that has moved away is no error, a file that was asked for is.
Vocabulary VocabularyFor(const Options& options, const LogitsResult& result) {
  return options.tokenizer.empty() ? FindVocabulary({result.diff.reference.model_file, result.diff.subject.model_file})
                                   : LoadVocabulary(options.tokenizer);
}

int Run(const Options& options) {
  const LogitsResult result = CompareLogits(OpenTrace(options.reference), OpenTrace(options.subject), options.top_k);
  const Vocabulary vocabulary = VocabularyFor(options, result);
  constexpr std::size_t kMostRows = 24;
  WriteOutputs(options.outputs, {.json = LogitsToJson(result, vocabulary),
                                 .document = LogitsToDocument(result, vocabulary, options.all ? 0 : kMostRows),
                                 .checks = LogitsToChecks(result),
                                 .rule = "paritrace.logits",
                                 .uri = options.subject});
  return ExitCode(result.verdict);
}

}  // namespace

void AddLogits(CLI::App& app, int& exit_code) {
  CLI::App* command =
      app.add_subcommand("logits", "compare the logits of two traces: distributions, winners, greedy decoding");
  auto options = std::make_shared<Options>();
  command->add_option("REF", options->reference, "trace that is trusted")->required();
  command->add_option("SUB", options->subject, "trace of the engine under test")->required();
  command->add_option("--top", options->top_k, "how many of the best tokens to hold against each other")
      ->capture_default_str()
      ->type_name("K");
  command
      ->add_option("--tokenizer", options->tokenizer,
                   "tokenizer.json, a folder with one, or a .gguf, for the tokens' texts")
      ->type_name("FILE");
  command->add_flag("--all", options->all, "show every position");
  AddOutputOptions(*command, options->outputs);
  command->callback([options, &exit_code] { exit_code = Run(*options); });
}

}  // namespace paritrace::cli
