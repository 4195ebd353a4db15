// What `digest` and `export` share: both write a trace that has its values once more, in another form.
#pragma once

#include <string>

#include <CLI/CLI.hpp>

#include "trace/trace_writer.h"

namespace paritrace::cli {

struct CopyOptions {
  std::string trace, output;
  bool overwrite = false;
};

// TRACE, -o and --overwrite. form: what -o is, as the help shows it.
void AddCopyOptions(CLI::App& command, CopyOptions& options, const std::string& form);

// doing: for the progress line, "digesting". Errors: UsageError where an entry has no values; as of OpenTrace, TraceWriter.
void CopyTrace(const CopyOptions& options, TraceWriter::Mode mode, const std::string& doing);

}  // namespace paritrace::cli
