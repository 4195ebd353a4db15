// What a line of the index says about a tensor's values beside their hash, in as few looks at them as possible.
#pragma once

#include <string_view>

#include <nlohmann/json.hpp>

#include "core/tensor.h"

namespace paritrace {

// {"stats" (tensor_stats.h) and, with `digest`, what digest.h adds}. Large tensors are shared out over the cores; the result
// does not depend on how many there are.
// Errors: as of DecodeF64.
[[nodiscard]] nlohmann::ordered_json Summarise(const TensorView& tensor, std::string_view site, bool digest);

}  // namespace paritrace
