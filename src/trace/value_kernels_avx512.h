// The kernels of value_kernels.h and row_kernel.h for CPUs with AVX-512: a block of eight values is one vector there, and a rotation one
// permutation of it. To the bit what the others give. Only where ActiveCpuTarget() is kAvx512.
#pragma once

#include <cstdint>

#include "trace/value_kernels.h"

namespace paritrace {

void AddMomentsAvx512(const float* values, std::int64_t count, double mask_bound, Moments& moments);
void AddMomentsAvx512(const double* values, std::int64_t count, double mask_bound, Moments& moments);

double AddRowAvx512(const float* values, std::int64_t column, std::int64_t count, double mask_bound,
                    std::uint64_t block, std::int64_t width, double* buckets);
double AddRowAvx512(const double* values, std::int64_t column, std::int64_t count, double mask_bound,
                    std::uint64_t block, std::int64_t width, double* buckets);

}  // namespace paritrace
