// What would explain a diverged pair without knowing the weights: the subject is the reference times 1/8, with its tokens
// one further, with two heads exchanged. A relation is evidence, not a diagnosis: it is reported with what it leaves over.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "compare/pair_stats.h"

namespace paritrace {

// A pair to explain.
struct RelationQuery {
  const TensorView& reference;
  const TensorView& subject;
  const PairLayout& layout;
  std::int64_t first_row = 0;  // the first row that diverged: the rows looked at start a few before it
};

// A tensor of the reference that the subject may hold in this one's place, or have added or left out.
struct OtherTensor {
  std::string site;
  const TensorView* tensor = nullptr;  // as many values as the reference's, in the same layout
};

// The simplest relation that leaves at most a hundredth of the squared error; nullopt if none does. Keys:
//   kind        "scale" {factor, name?}, "shift" {constant}, "scale_shift" {factor, constant}, "token_shift" {by},
//               "saturation" {limit}, "rounding" {to, how}, "token_scale", "channel_shift", "channel_scale",
//               "row_order" {from, to, head_dim}, "head_layout" {from, to, heads}, "head_permutation" {order, head_dim},
//               "channel_permutation" {order, …only where short}, "other_site" {site}, "plus_site" {site},
//               "minus_site" {site}, "local" {tokens | channels | heads, head_dim?}
//   left_nmse   what the relation leaves, on the rows looked at
//   statement   one sentence for people
// "local" explains nothing but says where all of the error is: it comes last.
// Rows looked at: at most 64, and at most 2 million values.
[[nodiscard]] std::optional<nlohmann::ordered_json> FindRelation(const RelationQuery& query,
                                                                 const std::vector<OtherTensor>& others = {});

// "1/sqrt(64)", "-1", "sqrt(4096)" for a factor that is one of those to `tolerance` (relative); "" for any other.
// widths: numbers n that sqrt(n), 1/n, … may be made of (head sizes, the tensor's width).
[[nodiscard]] std::string NameFactor(double factor, double tolerance, const std::vector<std::int64_t>& widths);

}  // namespace paritrace
