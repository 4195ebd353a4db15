// How the values of a reference stand in for a subject's: rows reordered within heads, one added, a factor. The one place
// that decodes both sides, for the statistics of whole tensors and for looking at a few rows.
#pragma once

#include <cstdint>
#include <vector>

#include "compare/weight_source.h"
#include "compare/weights.h"

namespace paritrace {

struct WeightMapping {
  std::int64_t head_dim = 0;   // rows of each head reordered; 0: none
  bool to_interleaved = true;  // from half-split, or the other way
  double add = 0;
};

// Rows and columns of a tensor; a vector is one row, but a column where its values are to be reordered.
struct Matrix2 {
  std::int64_t rows = 0, columns = 0;
};
[[nodiscard]] Matrix2 MatrixOf(const TensorView& tensor, bool vector_is_column);

// The row of the reference that stands at `row` of the subject.
[[nodiscard]] std::int64_t SourceRow(const WeightMapping& mapping, std::int64_t row);

// Statistics of two tensors of the same shape. done: told how many values were looked at.
[[nodiscard]] WeightStats MeasureWeights(const NamedWeight& reference, const NamedWeight& subject,
                                         const WeightMapping& mapping, const std::function<void(std::int64_t)>& done);

// Rows of a weight as doubles, one after the other, its factor included. rows: in range, in any order.
//   steps: also the step of each value (quant_step.h)
[[nodiscard]] std::vector<double> DecodeRows(const NamedWeight& weight, const Matrix2& matrix,
                                             const std::vector<std::int64_t>& rows,
                                             std::vector<double>* steps = nullptr);

// Three codes a block: too coarse for what a rounding may leave to say much.
[[nodiscard]] bool IsTernary(DType dtype);

}  // namespace paritrace
