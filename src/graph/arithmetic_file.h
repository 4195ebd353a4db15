// An arithmetic as a file: a known policy and what one engine does otherwise, op by op. `diagnose --learn-arithmetic` writes it.
//
//   schema = "paritrace/arithmetic/1"
//   name = "my-engine"                     # for reports
//   base = "torch-bf16"                    # a policy of ArithmeticNames()
//   [[op]]
//   family = "activation"                  # norm, linear, rope, scores, softmax, context, activation, add, embed or moe
//   inner = "bf16"                         # f64, f32, f16, bf16: every step inside is rounded to it
//   accumulate = "exact"                   # products: exact, f32-sequential
//   reduce = "exact"                       # sums inside norms and softmax: the same
//   kernel = "vector"                      # activations: exact, vector, stored-steps, rational, ggml
//   fused = true                           # only the result is rounded to storage
#pragma once

#include <string>
#include <vector>

#include "graph/arithmetic.h"

namespace paritrace {

// Errors: UsageError (cannot be read), FormatError naming the line, for a key or a value that is not known.
[[nodiscard]] Arithmetic ReadArithmeticFile(const std::string& path);

// comments: a line for each recipe, in their order; may be shorter.
[[nodiscard]] std::string FormatArithmetic(const Arithmetic& arithmetic, const std::string& base,
                                           const std::vector<std::string>& comments);

// The policy of a name, or of a file that ends in .toml. Errors: UsageError for a name that is not known, beginning with `option`.
[[nodiscard]] Arithmetic ArithmeticOf(const std::string& name_or_file, const std::string& option);

// What a recipe changes, in words: "activation: every step in bf16, kernel vector".
[[nodiscard]] std::string Describe(const OpRecipe& recipe);

}  // namespace paritrace
