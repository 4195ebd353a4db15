// Which mistake makes the weights of one file from those of another: found on a sample of rows, where it leaves nothing but
// the rounding of the coarser type.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "compare/weight_view.h"
#include "compare/weights.h"

namespace paritrace {

struct WeightQuestion {
  const NamedWeight& reference;
  const NamedWeight& subject;
  WeightMapping mapping;  // as the two formats differ rightly
  const WeightStats& stats;
  std::int64_t head_dim = 0;               // 0: unknown
  bool same_shape = true;                  // else the shapes are each other's reverse
  const std::vector<NamedWeight>& others;  // of the reference: what the subject may hold in this one's place
};

struct WeightAnswer {
  nlohmann::ordered_json relation;  // kind, statement, left_nmse
  WeightCause cause;
};

// nullopt never: where nothing fits the cause is `unknown`, and the relation says what is known.
//   kinds: "scale" {factor, name?}, "shift" {constant}, "truncation" {to}, "row_order" {from, to, head_dim}, "transposed", "other_weight"
//   {name, layer}, "row_shift" {by}, "row_permutation" {block?}, "constant" {value}, "unrelated" {correlation}, "local" {groups, first_row}
[[nodiscard]] WeightAnswer ExplainWeight(const WeightQuestion& question);

}  // namespace paritrace
