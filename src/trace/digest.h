// What a digest trace keeps of a tensor beside its hash and statistics, so that two runs can be compared without values.
#pragma once

#include <cstdint>
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

// The same in parts, as StatsOfParts.
class DigestOfParts {
 public:
  // wanted: false makes no parts. Keeps a reference to the tensor.
  DigestOfParts(const TensorView& tensor, std::string_view site, bool wanted = true);
  ~DigestOfParts();
  DigestOfParts(const DigestOfParts&) = delete;
  DigestOfParts& operator=(const DigestOfParts&) = delete;
  [[nodiscard]] std::int64_t parts() const;
  void Run(std::int64_t part);
  // Once, after all parts.
  [[nodiscard]] TensorDigest Digest();

 private:
  struct Part;
  const TensorView& tensor_;
  double mask_bound_;
  std::int64_t values_ = 0, grain_ = 1;
  std::vector<Part> parts_;
};

// Puts both into an entry's line of the index: "stats"."position_rms" and "sketch".
void AddTo(nlohmann::ordered_json& index, TensorDigest digest);

}  // namespace paritrace
