// The diagnosis as the page of report/.
#pragma once

#include <string>
#include <vector>

#include "diagnose/diagnosis.h"
#include "report/document.h"

namespace paritrace {

// What stands around the views: the sentence, remarks.
[[nodiscard]] Document DiagnosisToDocument(const Diagnosis& diagnosis);

// tokens: their texts by position; empty: not known. The plain page where this build has no other.
[[nodiscard]] std::string DiagnosisToHtml(const Diagnosis& diagnosis, const std::vector<std::string>& tokens);

}  // namespace paritrace
