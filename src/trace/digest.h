// What a digest trace keeps of a tensor beside its hash and statistics, so that two runs can be compared without values.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/tensor.h"

namespace paritrace {

struct TensorDigest {
  // [SketchPlan::positions] sqrt(sum of squares / features): values that are left out of the sums count as 0 here, so
  // that the square times `features` is the position's energy. Rounded to kDigits decimal digits.
  std::vector<double> position_rms;
  std::string sketch;  // Sketch::Encode; "" where it cannot be

  static constexpr int kDigits = 7;
};

// One pass over the values. NaN and infinities are left out, and so are masked values at a layer's `attn.scores`.
// Errors: as of DecodeF64.
[[nodiscard]] TensorDigest DigestOf(const TensorView& tensor, std::string_view site);

// Puts both into an entry's line of the index: "stats"."position_rms" and "sketch".
void AddDigest(const TensorView& tensor, std::string_view site, nlohmann::ordered_json& index);

}  // namespace paritrace
