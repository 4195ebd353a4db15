// The result of `paritrace logits`, for people and for scripts.
#pragma once

#include <vector>

#include <nlohmann/json.hpp>

#include "compare/logits.h"
#include "formats/vocabulary.h"
#include "report/document.h"

namespace paritrace {

// Schema paritrace/logits/1. Tokens carry their text where `vocabulary` knows it.
[[nodiscard]] nlohmann::ordered_json LogitsToJson(const LogitsResult& result, const Vocabulary& vocabulary);

// most_rows: positions shown at most; those that diverge or decode differently come before the others. 0: all.
[[nodiscard]] Document LogitsToDocument(const LogitsResult& result, const Vocabulary& vocabulary,
                                        std::size_t most_rows);

// One check a position.
[[nodiscard]] std::vector<Check> LogitsToChecks(const LogitsResult& result);

}  // namespace paritrace
