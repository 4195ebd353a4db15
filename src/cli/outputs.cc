#include "cli/outputs.h"

#include <cstdio>

#include <fmt/format.h>

#include "core/file.h"
#include "report/page.h"
#include "report/terminal.h"

namespace paritrace::cli {

std::string Dump(const nlohmann::ordered_json& json) {
  return json.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

void WriteOutputs(const OutputOptions& options, const CommandResult& result) {
  if (!options.json.empty()) WriteFileAtomically(options.json, Dump(result.json));
  if (!options.markdown.empty()) WriteFileAtomically(options.markdown, DocumentToMarkdown(result.document));
  if (!options.html.empty()) WriteFileAtomically(options.html, DocumentToHtml(result.document, result.json));
  if (!options.junit.empty()) WriteFileAtomically(options.junit, ChecksToJunit(result.document.title, result.checks));
  if (!options.sarif.empty())
    WriteFileAtomically(options.sarif, Dump(ChecksToSarif(result.rule, result.uri, result.checks)));
  if (options.quiet || UsesStandardOutput(options)) return;
  fmt::print("{}",
             DocumentToTerminal(result.document, static_cast<std::size_t>(TerminalWidth(stdout)), WantsColour(stdout)));
}

}  // namespace paritrace::cli
