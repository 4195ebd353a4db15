// Brings a trace whose writer was killed into the state in which any reader of its formats opens it.
#pragma once

#include <string>
#include <vector>

namespace paritrace {

struct Repair {
  std::vector<std::string> done;      // what was changed, a line each; {}: nothing had to be
  std::vector<std::string> mistakes;  // index lines whose values are not there, or are not those of their hash
  int lines = 0;                      // of the index, that are kept
};

// A directory: the index ends with its last whole line; each tensors file gets a header without what was torn, and loses the
// bytes behind its last tensor; files that a kill left under a temporary name go. All values are then checked against their
// hashes. One .safetensors file: the same for that file. The status stays: an "open" trace was cut off, and still is.
// Nothing that any index line names is changed or removed; repairing twice changes nothing.
// Errors: UsageError where there is no trace, it is still being written, or it cannot be written to; FormatError where it is
// broken in a way that no kill explains.
[[nodiscard]] Repair RepairTrace(const std::string& path);

}  // namespace paritrace
