// The inner loop of a comparison: sums over two equally long runs of contiguous values, for every vector unit we know.
// Kept apart from pair_stats.h, which knows layouts, threads and merging, so that a kernel is only arithmetic.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"

namespace paritrace {

// What one kernel call finds in a run of pairs (a = reference, b = subject).
struct RunSums {
  double max_abs = 0;      // max |a-b|
  double abs = 0;          // sum |a-b|
  double aa = 0;           // sum a*a
  double bb = 0;           // sum b*b
  double ab = 0;           // sum a*b
  double dd = 0;           // sum (a-b)^2
  std::int64_t equal = 0;  // a == b (so -0 == +0; NaN equals nothing here)
};

// Sums over a[0, count) and b[0, count). Neither pointer needs alignment beyond its type's.
// Precision: every value is widened to f64 first; differences and products of f32, f16 and bf16 are then exact up to one
//   f64 rounding of a difference; sums run in f64 lanes. Fused multiply-add is used where the target has one: for
//   products of at most f32 operands it changes nothing (the product is exact), for f64 it saves a rounding.
//   Relative error of a sum of `count` terms of one sign: at most count / 8 * 2^-53.
// If any value is NaN or infinite, or an f64 square overflows, aa or bb is not finite, and no field may be used:
//   the caller then takes the careful path. A kernel never skips such a value in silence.
using RunKernel = RunSums (*)(const void* a, const void* b, std::int64_t count);

// The kernel for two contiguous runs of these types; nullptr where there is none (integers, f8, block types: decode first).
// f64, f32, f16 and bf16 in every mix.
[[nodiscard]] RunKernel FindRunKernel(DType a, DType b);

// Vector units the kernels were compiled for and this machine has, best first: "avx3", "avx2", …, "scalar" last.
[[nodiscard]] std::vector<std::string> KernelTargets();

// The one in use: the best, or what PARITRACE_TARGET asks for. Errors: UsageError where that names none of the above.
[[nodiscard]] std::string ActiveKernelTarget();

// Makes the choice below if nobody has yet; every kernel table asks for it first.
void SelectKernelTarget();

// Forces one of KernelTargets() from now on; "" returns to PARITRACE_TARGET or the best. For tests and benchmarks.
void ForceKernelTarget(std::string_view name);

}  // namespace paritrace
