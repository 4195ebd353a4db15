// The few numbers about a tensor that travel in a trace's index, and stand in for the values where they were not kept.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/tensor.h"
#include "trace/value_kernels.h"

namespace paritrace {

// The largest value that counts as masked in `scores` of this type: -1e30, which every engine's way of writing a mask
// stays below; f16 has no such number, and its lowest stands for it.
[[nodiscard]] inline double MaskBound(DType dtype) { return dtype == DType::kF16 ? -65504.0 : -1e30; }

// {"min","max","mean","rms","nan","inf"}: the first four over the finite values, null where there is none; nan and inf
// are counts. Sums in double, in partial sums whose order is fixed: the same bits on every CPU and any number of threads. At a layer's `attn.scores`, values up to MaskBound are masked: they
// say nothing about the scores, are left out and counted as "masked", infinite ones too.
// Errors: as of DecodeF64.
[[nodiscard]] nlohmann::ordered_json TensorStats(const TensorView& tensor, std::string_view site = "");

// Below so many values, waking a second thread costs more than it saves.
inline constexpr std::int64_t kSharedOutFrom = 1 << 17;

// The same in parts of a size that depends on the tensor alone. Run may be called for each part once, from any threads at
// the same time; then Json puts their sums together in their order.
class StatsOfParts {
 public:
  StatsOfParts(const TensorView& tensor, std::string_view site);  // keeps a reference to the tensor
  [[nodiscard]] std::int64_t parts() const { return static_cast<std::int64_t>(moments_.size()); }
  void Run(std::int64_t part);
  [[nodiscard]] nlohmann::ordered_json Json() const;

 private:
  const TensorView& tensor_;
  bool scores_;
  std::vector<Moments> moments_;
};

}  // namespace paritrace
