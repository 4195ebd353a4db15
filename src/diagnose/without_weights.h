// Diagnosis from two traces alone. What needs no weights is replayed from the subject's own inputs, with the parameters under which
// the reference's values follow from its own; products are held against the reference's where their inputs still agree. What
// the traces cannot show is said, not guessed.
#pragma once

#include "diagnose/diagnosis.h"

namespace paritrace {

// The reference is trusted here. Fills `unproven` besides what Diagnose fills.
// Errors: IncomparableError where the traces share nothing, or tokens differ; UsageError as Diagnose.
[[nodiscard]] Diagnosis DiagnoseWithoutWeights(const Trace& reference, const Trace& subject,
                                               const DiagnoseOptions& options);

}  // namespace paritrace
