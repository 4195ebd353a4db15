// A diff for machines that show test results: JUnit XML and SARIF 2.1.0.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "compare/diff.h"

namespace paritrace {

// One test case a site (named "step/site"): a failure where it diverged or has another shape, skipped where a side lacks
// it, an error where the tokens differ.
[[nodiscard]] std::string DiffToJunit(const DiffResult& diff);

// One result for the first divergence, one for each other diverged site; none where nothing diverged.
[[nodiscard]] nlohmann::ordered_json DiffToSarif(const DiffResult& diff);

}  // namespace paritrace
