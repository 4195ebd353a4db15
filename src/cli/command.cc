#include "cli/command.h"

namespace paritrace::cli {

void AddOutputOptions(CLI::App& command, OutputOptions& options) {
  command.add_option("--json", options.json, "write the result as JSON to FILE (- is standard output)")
      ->type_name("FILE");
  command.add_option("--md", options.markdown, "write the report as Markdown")->type_name("FILE");
  command.add_option("--html", options.html, "write the report as one self-contained HTML file")->type_name("FILE");
  command.add_option("--junit", options.junit, "write the result as JUnit XML")->type_name("FILE");
  command.add_option("--sarif", options.sarif, "write the result as SARIF")->type_name("FILE");
  command.add_flag("-q,--quiet", options.quiet, "print nothing on the terminal; the exit code is the answer");
}

bool UsesStandardOutput(const OutputOptions& options) {
  return options.json == "-" || options.markdown == "-" || options.html == "-" || options.junit == "-" ||
         options.sarif == "-";
}

}  // namespace paritrace::cli
