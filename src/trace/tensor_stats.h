// The few numbers about a tensor that travel in a trace's index, and stand in for the values where they were not kept.
#pragma once

#include <string_view>

#include <nlohmann/json.hpp>

#include "core/tensor.h"

namespace paritrace {

// The largest value that counts as masked in `scores` of this type: -1e30, which every engine's way of writing a mask
// stays below; f16 has no such number, and its lowest stands for it.
[[nodiscard]] inline double MaskBound(DType dtype) { return dtype == DType::kF16 ? -65504.0 : -1e30; }

// {"min","max","mean","rms","nan","inf"}: the first four over the finite values, null where there is none; nan and inf
// are counts. Sums in double, in the tensor's order. At a layer's `attn.scores`, values up to MaskBound are masked: they
// say nothing about the scores, are left out and counted as "masked", infinite ones too.
// Errors: as of DecodeF64.
[[nodiscard]] nlohmann::ordered_json TensorStats(const TensorView& tensor, std::string_view site = "");

}  // namespace paritrace
