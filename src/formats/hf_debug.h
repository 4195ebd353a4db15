// The JSON that Transformers' model_addition_debugger_context writes: a tree of module calls with their inputs and outputs,
// as torch prints them, as files beside it, or (SUMMARY) as mean, std, min and max alone.
// Source: transformers/model_debugging_utils.py, 4.51 to 5.23.
#pragma once

#include <optional>
#include <string>

#include "formats/dump.h"
#include "formats/json_fields.h"

namespace paritrace {

// True for the root of such a tree.
[[nodiscard]] bool IsHfDebugTree(const DumpJson& json);

// Records are named as our own adapter names them (rules/hf.toml): the module's path without the model's class; `:in` for its
// first tensor input, `:1` or `.key` for further outputs. Transformers keeps the outputs of leaves only. The ids of the
// model's own input become the dump's tokens, where all of them were printed.
//   folder  where the tensor files are that the tree names; "" forbids them
// Errors: FormatError for a broken node, a print that does not fit its shape, or a file outside the folder.
[[nodiscard]] Dump ReadHfDebugTree(const DumpJson& json, const std::string& file, const std::string& folder);

}  // namespace paritrace
