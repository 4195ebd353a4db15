// All weights of a model file, a model folder or a trace, under names that two of them share.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "compare/weight_names.h"
#include "core/file.h"
#include "core/tensor.h"

namespace paritrace {

struct NamedWeight {
  std::string key;   // WeightPlaceName::Key, or the name itself where it means nothing to us
  std::string name;  // in the file, with the expert where it was cut out of a stack
  std::string role;  // "" where the name means nothing to us
  int layer = -1, expert = -1;
  TensorView tensor;  // experts apart, leading axes of one taken off
  double factor = 1;  // the values are the decoded ones times this (a scale that the file keeps beside the weight)
};

struct WeightSource {
  std::string path, format;   // "gguf", "folder", "safetensors", "trace", …
  std::string architecture;   // "" where the file does not say
  std::int64_t head_dim = 0;  // 0: unknown
  // llama.cpp's `llama` keeps the rows of q and k interleaved, HF half-split. A trace may be either.
  enum class RowOrder { kHalfSplit, kInterleaved, kUnknown };
  RowOrder row_order = RowOrder::kUnknown;
  bool norms_hold_plus_one = false;    // Gemma's GGUF: what a norm multiplies by, where HF keeps that minus one
  std::vector<NamedWeight> weights;    // in the file's order
  std::vector<std::string> not_known;  // names that stand for no weight we know
  std::vector<std::shared_ptr<const InputFile>> files;
};

// A .gguf, a .safetensors or other tensor file, a model folder, or a trace that recorded weights. Everything stays mapped.
// Errors: UsageError, FormatError as in tensor_file.h and trace.h.
[[nodiscard]] WeightSource OpenWeights(const std::string& path);

}  // namespace paritrace
