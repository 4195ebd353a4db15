// Writes a command's result wherever it was asked for.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "report/document.h"

namespace paritrace::cli {

// JSON as text. Names in a trace may hold bytes that are no UTF-8: they are replaced, not refused.
[[nodiscard]] std::string Dump(const nlohmann::ordered_json& json);

// json: the result; document: for people; checks: for machines that show test results, found under `rule` in `uri`.
struct CommandResult {
  nlohmann::ordered_json json;
  Document document;
  std::vector<Check> checks;
  std::string rule, uri;
};

// Files that were asked for, and the terminal's report unless standard output is taken or nothing should be said.
// Errors: UsageError if a file cannot be written.
void WriteOutputs(const OutputOptions& options, const CommandResult& result);

}  // namespace paritrace::cli
