// The diagnosis for continuous integration: JUnit XML, a test case a site, and SARIF 2.1.0, a result a defect.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "diagnose/diagnosis.h"

namespace paritrace {

[[nodiscard]] std::string DiagnosisToJunit(const Diagnosis& diagnosis);

// Source: OASIS Static Analysis Results Interchange Format 2.1.0. Sites are logical locations.
[[nodiscard]] nlohmann::ordered_json DiagnosisToSarif(const Diagnosis& diagnosis);

}  // namespace paritrace
