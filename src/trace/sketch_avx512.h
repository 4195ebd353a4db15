// AddToSketch for CPUs with AVX-512: a block of eight values is one vector there, and a rotation one permutation of it.
#pragma once

#include <cstdint>

namespace paritrace {

// As AddToSketch of value_kernels.h, to the bit. Only where ActiveCpuTarget() is kAvx512.
void AddToSketchAvx512(const double* values, std::int64_t column, std::int64_t count, std::uint64_t block,
                       std::int64_t width, double* buckets);

}  // namespace paritrace
