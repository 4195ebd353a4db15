// What an engine makes of the activations before a product with a weight.
#pragma once

#include <span>

#include "core/dtype.h"
#include "graph/arithmetic.h"

namespace paritrace {

// One token's activations, rounded in place as the policy says for a weight of this type.
void RoundProductInput(const Arithmetic& arithmetic, DType weight, std::span<double> row);

}  // namespace paritrace
