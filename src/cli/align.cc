// paritrace align REF SUB -o MAP.toml: finds which tensors are the same where no rule maps the names.
#include <cstdio>
#include <memory>
#include <string>

#include <fmt/format.h>

#include "cli/command.h"
#include "compare/mapping_file.h"
#include "compare/match_traces.h"
#include "compare/tokens.h"
#include "core/error.h"
#include "core/file.h"

namespace paritrace::cli {
namespace {

struct Options {
  std::string reference, subject, output = "-";
  double least_confidence = kUsableConfidence;
  bool quiet = false;
};

int Run(const Options& options) {
  const Trace reference = OpenTrace(options.reference), subject = OpenTrace(options.subject);
  const MatchResult match = MatchTraces(reference, subject);
  const auto tokens = CompareTokens(reference.header.tokens, subject.header.tokens);
  if (tokens && match.pairs.empty()) throw IncomparableError(tokens->statement);
  std::int64_t by_rule = 0, sure = 0, unsure = 0;
  for (const TraceMatch& pair : match.pairs) {
    ++(pair.by_site ? by_rule : pair.confidence >= options.least_confidence ? sure : unsure);
  }
  WriteFileAtomically(options.output, FormatMapping(match, reference, subject, options.least_confidence));
  if (!options.quiet && options.output != "-") {
    fmt::print("{}: {} pairs", options.output, sure);
    if (unsure > 0) fmt::print(", {} more below {:.2f} as comments", unsure, options.least_confidence);
    if (by_rule > 0) fmt::print("; {} are paired by rules already", by_rule);
    fmt::print("; alone: {} in the reference, {} in the subject\n", match.reference_only.size(),
               match.subject_only.size());
  }
  return by_rule + sure > 0 ? 0 : 3;
}

}  // namespace

void AddAlign(CLI::App& app, int& exit_code) {
  CLI::App* command =
      app.add_subcommand("align", "pair the tensors of two traces that no rule maps, for diff --map to use");
  auto options = std::make_shared<Options>();
  command->add_option("REF", options->reference, "trace that is trusted: a directory, or one .safetensors or .npz file")
      ->required();
  command->add_option("SUB", options->subject, "trace of the engine under test")->required();
  command->add_option("-o,--output", options->output, "write the map to FILE (- is standard output)")
      ->type_name("FILE");
  command
      ->add_option("--min-confidence", options->least_confidence,
                   "pairs that are less sure are written as comments, for you to judge")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_flag("-q,--quiet", options->quiet, "print nothing but errors");
  command->callback([options, &exit_code] { exit_code = Run(*options); });
}

}  // namespace paritrace::cli
