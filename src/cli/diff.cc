// paritrace diff REF SUB
#include <cstdio>
#include <memory>
#include <mutex>

#include <fmt/format.h>

#include "cli/command.h"
#include "cli/outputs.h"
#include "cli/progress.h"
#include "compare/diff.h"
#include "compare/mapping_file.h"
#include "core/file.h"
#include "formats/vocabulary.h"
#include "report/diff_ci.h"
#include "report/diff_json.h"
#include "report/diff_markdown.h"
#include "report/diff_overlay.h"
#include "report/diff_page.h"
#include "report/diff_terminal.h"
#include "report/terminal.h"

namespace paritrace::cli {
namespace {

struct Options {
  std::string reference, subject, map, overlay;
  double least_confidence = kUsableConfidence;
  bool all = false, all_stats = false;
  OutputOptions outputs;
};

void Write(const Options& options, const DiffResult& diff) {
  const OutputOptions& out = options.outputs;
  if (!out.json.empty()) WriteFileAtomically(out.json, Dump(DiffToJson(diff)));
  if (!out.markdown.empty()) WriteFileAtomically(out.markdown, DiffToMarkdown(diff));
  if (!out.html.empty()) {
    const std::vector<std::string> files = {diff.reference.model_file, diff.subject.model_file};
    WriteFileAtomically(out.html, DiffToHtml(diff, TokenTexts(files, diff.subject.tokens)));
  }
  if (!out.junit.empty()) WriteFileAtomically(out.junit, DiffToJunit(diff));
  if (!out.sarif.empty()) WriteFileAtomically(out.sarif, Dump(DiffToSarif(diff)));
  if (!options.overlay.empty()) WriteFileAtomically(options.overlay, Dump(DiffToOverlay(diff)));
  if (out.quiet || UsesStandardOutput(out) || options.overlay == "-") return;
  const DiffTerminalOptions text{
      .width = static_cast<std::size_t>(TerminalWidth(stdout)), .colour = WantsColour(stdout), .all = options.all};
  fmt::print("{}", DiffToTerminal(diff, text));
}

// What of the map is not used is said: a pair that silently is none would show as missing.
void UseMap(const Options& options, Trace& reference, Trace& subject) {
  const MappingUse use = ApplyMapping(ReadMapping(options.map), options.least_confidence, reference, subject);
  if (options.outputs.quiet || use.unsure + use.absent == 0) return;
  fmt::print(stderr, "paritrace: {}: {} pairs used", options.map, use.used);
  if (use.unsure > 0) fmt::print(stderr, ", {} left out below confidence {:.2f}", use.unsure, options.least_confidence);
  if (use.absent > 0) fmt::print(stderr, ", {} name a tensor that is not there", use.absent);
  fmt::print(stderr, "\n");
}

int Run(const Options& options) {
  Trace reference = OpenTrace(options.reference);
  Trace subject = OpenTrace(options.subject);
  for (const Trace* trace : {&reference, &subject}) {
    if (!trace->hint.empty() && !options.outputs.quiet) fmt::print(stderr, "paritrace: {}\n", trace->hint);
  }
  if (!options.map.empty()) UseMap(options, reference, subject);
  const auto line = ProgressLine("comparing", "values");
  std::mutex one_at_a_time;
  DiffOptions how;
  how.all_stats = options.all_stats;
  if (line) {
    how.progress = [&](std::int64_t done, std::int64_t total) {
      const std::scoped_lock lock(one_at_a_time);
      line(static_cast<std::size_t>(done), static_cast<std::size_t>(total));
    };
  }
  const DiffResult diff = Diff(reference, subject, how);
  Write(options, diff);
  return ExitCode(diff.verdict);
}

}  // namespace

void AddDiff(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("diff", "compare two traces site by site and find the first divergence");
  auto options = std::make_shared<Options>();
  command->add_option("REF", options->reference, "trace that is trusted: a directory, or one .safetensors or .npz file")
      ->required();
  command->add_option("SUB", options->subject, "trace of the engine under test")->required();
  command->add_flag("--all", options->all, "show every site; otherwise long runs of one status are folded into a line");
  command->add_flag("--all-stats", options->all_stats,
                    "also quantiles of the relative error, ULPs, sign flips, and error by channel");
  command->add_option("--map", options->map, "pair the tensors as FILE says, which paritrace align writes")
      ->type_name("FILE");
  command->add_option("--min-confidence", options->least_confidence, "leave out pairs of the map that are less sure")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--model-explorer", options->overlay, kOverlayHelp)->type_name("FILE");
  AddOutputOptions(*command, options->outputs);
  command->callback([options, &exit_code] { exit_code = Run(*options); });
}

}  // namespace paritrace::cli
