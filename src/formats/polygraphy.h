// RunResults of Polygraphy (TensorRT's tool to compare runners): every output of every iteration, as base64 of an .npy file.
// Source: github.com/NVIDIA/TensorRT, tools/Polygraphy, polygraphy/json/serde.py and comparator/struct.py; 0.53.6.
#pragma once

#include <string>

#include "formats/dump.h"
#include "formats/json_fields.h"

namespace paritrace {

[[nodiscard]] bool IsPolygraphyResults(const DumpJson& json);

// The first runner's iterations; an iteration is a step. With several runners, `hint` names the others: a trace is one run.
// Errors: FormatError for broken base64 or a broken array.
[[nodiscard]] Dump ReadPolygraphyResults(const DumpJson& json, const std::string& file);

}  // namespace paritrace
