// A diagnosis as node data for Model Explorer (overlay.h).
#pragma once

#include <nlohmann/json.hpp>

#include "diagnose/diagnosis.h"
#include "trace/trace.h"

namespace paritrace {

// The ratio of introduced error to noise floor, of every site of `subject` that was judged or is blamed.
[[nodiscard]] nlohmann::ordered_json DiagnosisToOverlay(const Diagnosis& diagnosis, const Trace& subject);

}  // namespace paritrace
