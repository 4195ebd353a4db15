// The dumps of msProbe (mindstudio-probe): dump.json with max, min, mean and norm of every tensor of every module or API
// call, and in task "tensor" a file for each beside it.
// Source: gitcode.com/Ascend/msprobe, docs of data dump; files of version 26.2.0.
#pragma once

#include <string>

#include "formats/dump.h"
#include "formats/json_fields.h"

namespace paritrace {

[[nodiscard]] bool IsMsprobeDump(const DumpJson& json);

// Forward calls only. `Module.PATH.CLASS.forward.N` becomes PATH in step N, named as our torch adapter names modules:
// `:in` is the first input, `:1` the second output. Other levels' names (`Functional.linear.0.forward`) stay as they are.
// Values in .npy files are read; in .pt files only the Python package reads them, and `hint` says so.
// Errors: FormatError for a broken entry or a file outside the folder.
[[nodiscard]] Dump ReadMsprobeDump(const DumpJson& json, const std::string& file, const std::string& folder);

}  // namespace paritrace
