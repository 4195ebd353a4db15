// The text that llama.cpp's eval-callback example (and llama-debug) prints: of each node three values from both ends of each
// axis, to four decimals, and the sum of all.
// Source: github.com/ggml-org/llama.cpp, common/debug.cpp (common_debug_cb_eval), earlier examples/eval-callback (ggml_debug).
#pragma once

#include <string>
#include <string_view>

#include "formats/dump.h"

namespace paritrace {

// True if the text has at least one node's line.
[[nodiscard]] bool IsEvalCallbackLog(std::string_view text);

// Records are named as our own adapter names nodes: the graph's name, a colon, the op; a node without a name of its own is
// called by the weight it uses (rules/llamacpp.toml). Reshapes, views and writes to the cache are left out.
// A graph that begins again (a second `embd`) is the next step.
// Errors: FormatError with the line, where a node's print does not fit the shape that its line claims.
[[nodiscard]] Dump ReadEvalCallbackLog(std::string_view text, const std::string& file);

}  // namespace paritrace
