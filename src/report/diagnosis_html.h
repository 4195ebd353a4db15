// The diagnosis as one HTML page that needs nothing else: no script, no request.
#pragma once

#include <string>

#include "diagnose/diagnosis.h"

namespace paritrace {

[[nodiscard]] std::string DiagnosisToHtml(const Diagnosis& diagnosis);

}  // namespace paritrace
