// Everything that a line of the index says about a tensor's values, in as few looks at them as possible.
#pragma once

#include <string_view>

#include <nlohmann/json.hpp>

#include "core/tensor.h"

namespace paritrace {

// Puts "hash" (core/hash.h), "stats" (tensor_stats.h) and, with `digest`, the digest (digest.h) into the line. Large tensors
// are shared out over the cores; the result does not depend on how many there are.
// Errors: as of DecodeF64.
void Summarise(const TensorView& tensor, std::string_view site, bool digest, nlohmann::ordered_json& index);

}  // namespace paritrace
