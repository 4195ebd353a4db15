// Where no known policy explains how an engine rounds in some kind of op, the recipe is searched for: few marks, few formats, and
// equality to the bit is a sharp target.
#pragma once

#include <string>
#include <vector>

#include "arch/model.h"
#include "diagnose/diagnosis.h"
#include "graph/arithmetic.h"

namespace paritrace {

struct LearnedOp {
  OpRecipe recipe;
  double before = 0,
         after = 0;  // shares of values equal to the bit, on sites that the search did not see where there are such
  std::int64_t values = 0;
};

struct LearnedArithmetic {
  Arithmetic arithmetic;  // the policy chosen as without learning, with a recipe for each family that needed one
  std::string base;
  std::vector<LearnedOp> ops;                 // in the order of arithmetic.recipes
  std::vector<std::string> left_unexplained;  // families that no recipe explains much better, with what is known
};

// Looks at every family of ops whose recorded values the policy does not explain to the bit, at sites all of whose inputs were
// recorded, leaving out those that `diagnosis` names a defect at. Errors: as Diagnose.
[[nodiscard]] LearnedArithmetic LearnArithmetic(const Model& model, const Trace& subject,
                                                const DiagnoseOptions& options, const Diagnosis& diagnosis);

}  // namespace paritrace
