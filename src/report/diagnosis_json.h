// The diagnosis as JSON, "paritrace/diagnosis/1".
#pragma once

#include <nlohmann/json.hpp>

#include "diagnose/diagnosis.h"

namespace paritrace {

[[nodiscard]] nlohmann::ordered_json DiagnosisToJson(const Diagnosis& diagnosis);

// Defects of one cause and one found value, grouped: what a person reads first.
struct CauseGroup {
  std::string side, cause, statement, fix;
  double confidence = 0;
  std::vector<std::string> sites;
  const Defect* first = nullptr;
};
[[nodiscard]] std::vector<CauseGroup> GroupCauses(const Diagnosis& diagnosis);

}  // namespace paritrace
