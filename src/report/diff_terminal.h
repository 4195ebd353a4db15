// A diff on the terminal: the answer, then the sites in order of execution with the first divergence marked.
#pragma once

#include <string>

#include "compare/diff.h"

namespace paritrace {

struct DiffTerminalOptions {
  std::size_t width = 80;
  bool colour = false;
  bool all = false;  // every site; otherwise long runs of one status are folded into a line
};

[[nodiscard]] std::string DiffToTerminal(const DiffResult& diff, const DiffTerminalOptions& options);

}  // namespace paritrace
