// The diagnosis as one HTML page that needs nothing else: no script, no request. What a build without the
// page of report/ writes (diagnosis_page.h).
#pragma once

#include <string>

#include "diagnose/diagnosis.h"

namespace paritrace {

[[nodiscard]] std::string DiagnosisToPlainHtml(const Diagnosis& diagnosis);

}  // namespace paritrace
