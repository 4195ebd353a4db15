// What is left of weights after a simple quantiser: the values that a q8_0, q4_0, … file made from them holds.
// Only types whose quantiser is one formula are here; K-quants search, and differ from version to version.
#pragma once

#include <array>
#include <span>

#include "core/dtype.h"

namespace paritrace {

inline constexpr std::array kRequantisable = {DType::kF16,  DType::kBF16, DType::kQ8_0, DType::kQ4_0,
                                              DType::kQ4_1, DType::kQ5_0, DType::kQ5_1};

// A row of weights, quantised and decoded again, in place. Rows that are no whole number of blocks are left alone.
// Source of the formulas: ggml's quantize_row_*_ref.  Errors: InternalError for a type that is not in kRequantisable.
void Requantise(DType type, std::span<float> row);

}  // namespace paritrace
