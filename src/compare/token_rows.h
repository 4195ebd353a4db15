// Whether two runs were fed the same tokens, from the traces: what their headers state, else what the rows of `embed` show.
#pragma once

#include <optional>

#include "compare/tokens.h"
#include "trace/trace.h"

namespace paritrace {

// As CompareTokens. Where a header states no tokens, rows of the first step's `embed` that point the same way stand for one
// token: a scale of the embedding changes nothing. Nothing is said where half of the subject's rows or more have no twin in the
// reference (other weights, positions added to the rows), where a row is only near another, or where a side has no such rows.
[[nodiscard]] std::optional<TokenMismatch> FindTokenMismatch(const Trace& reference, const Trace& subject);

}  // namespace paritrace
