// paritrace diff REF SUB
#include <cstdio>
#include <memory>
#include <mutex>

#include <fmt/format.h>

#include "cli/command.h"
#include "cli/progress.h"
#include "compare/diff.h"
#include "core/file.h"
#include "report/diff_ci.h"
#include "report/diff_html.h"
#include "report/diff_json.h"
#include "report/diff_markdown.h"
#include "report/diff_terminal.h"
#include "report/terminal.h"

namespace paritrace::cli {
namespace {

struct Options {
  std::string reference, subject;
  bool all = false;
  OutputOptions outputs;
};

// Names in a trace may hold bytes that are no UTF-8: they are replaced, not refused.
std::string Dump(const nlohmann::ordered_json& json) {
  return json.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

void Write(const Options& options, const DiffResult& diff) {
  const OutputOptions& out = options.outputs;
  if (!out.json.empty()) WriteFileAtomically(out.json, Dump(DiffToJson(diff)));
  if (!out.markdown.empty()) WriteFileAtomically(out.markdown, DiffToMarkdown(diff));
  if (!out.html.empty()) WriteFileAtomically(out.html, DiffToHtml(diff));
  if (!out.junit.empty()) WriteFileAtomically(out.junit, DiffToJunit(diff));
  if (!out.sarif.empty()) WriteFileAtomically(out.sarif, Dump(DiffToSarif(diff)));
  if (out.quiet || UsesStandardOutput(out)) return;
  const DiffTerminalOptions text{
      .width = static_cast<std::size_t>(TerminalWidth(stdout)), .colour = WantsColour(stdout), .all = options.all};
  fmt::print("{}", DiffToTerminal(diff, text));
}

int Run(const Options& options) {
  const Trace reference = OpenTrace(options.reference);
  const Trace subject = OpenTrace(options.subject);
  const auto line = ProgressLine("comparing");
  std::mutex one_at_a_time;
  DiffOptions how;
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
  AddOutputOptions(*command, options->outputs);
  command->callback([options, &exit_code] { exit_code = Run(*options); });
}

}  // namespace paritrace::cli
