// A trace of another model has nothing that could be diagnosed: every op that has weights would be blamed, and none of it true.
#pragma once

#include "arch/model.h"
#include "diagnose/replay.h"

namespace paritrace {

// Errors: FormatError naming the tensor, where a weight of MODEL is not finite: no verdict can be had from it. IncomparableError
// where every recorded op that has weights departs from MODEL: all products and embeddings point elsewhere than their replay does,
// and all norms are beyond their noise. A mistake of the engine leaves some of them right.
void RefuseBrokenWeights(const Model& model, const Replay& replay);
void RefuseOtherModel(const Replay& replay, const std::string& trace);

}  // namespace paritrace
