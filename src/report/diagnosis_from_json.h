// A diagnosis that was made elsewhere, by the torch oracle in Python, read back so that it is reported like our own.
#pragma once

#include <nlohmann/json.hpp>

#include "diagnose/diagnosis.h"

namespace paritrace {

// json: "paritrace/diagnosis/1"; `summary` is not read, it follows from the defects. `layout` may hold {"layers", "prefill",
// "tokens"}. null stands for infinity.
// Errors: UsageError naming what is missing or of another type.
[[nodiscard]] Diagnosis DiagnosisFromJson(const nlohmann::ordered_json& json);

}  // namespace paritrace
