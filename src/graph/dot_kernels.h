// The inner loop of a product with a weight matrix, for every vector unit we know.
#pragma once

#include <cstdint>

namespace paritrace {

constexpr std::int64_t kDotLanes = 16;  // tokens side by side: the lanes of a vector hold tokens, not parts of one sum
constexpr std::int64_t kDotRows = 8;    // weight rows at a time: as many independent chains of additions

// out[r][t] = sum over i of w[r][i] * x[i][t], i ascending from 0, each product and each sum rounded once: the same number on
// every machine. w: kDotRows rows of `in`; x: [in, kDotLanes]; out: [kDotRows, kDotLanes].
void DotBlock(const double* w, const double* x, std::int64_t in, double* out);
void DotBlock(const float* w, const float* x, std::int64_t in, float* out);

}  // namespace paritrace
