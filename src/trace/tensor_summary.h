// What a line of the index says about a tensor's values beside their hash, in as few looks at them as possible.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "core/tensor.h"

namespace paritrace {

// {"stats" (tensor_stats.h) and, with `digest`, what digest.h adds}. Large tensors are shared out over the cores; the result
// does not depend on how many there are.
// Errors: as of DecodeF64.
[[nodiscard]] nlohmann::ordered_json Summarise(const TensorView& tensor, std::string_view site, bool digest);

// The same, and HashBytes of the tensor in `hash`: one core hashes while the others look at the values.
[[nodiscard]] nlohmann::ordered_json SummariseAndHash(const TensorView& tensor, std::string_view site, bool digest,
                                                      std::string& hash);

}  // namespace paritrace
