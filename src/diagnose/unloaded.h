// Weights that were never loaded: what a site computes is linear in its input, and has no relation to any weight of the file.
#pragma once

#include <optional>
#include <string>

#include "diagnose/replay.h"

namespace paritrace {

struct UnloadedWeight {
  std::string found;      // "random values of std 0.02"
  std::string statement;  // with what was measured
  double confidence = 0;
  bool tied_head = false;  // the head, which the config ties to the embedding: a head of its own looks the same
  Edit edit;               // where the weight that was used could be recovered whole
};

// For a site that nothing else explains. A matrix is taken for unloaded if the recorded outputs
//   - have no correlation with those of MODEL's weight, nor with those of any other weight of its shape, nor are they a
//     reordering of them, and
//   - are, once the inputs' own correlations are taken out, as independent and as large for every token as values drawn at
//     random make them.
// A norm's weight is recovered lane by lane, and must then explain every token.
[[nodiscard]] std::optional<UnloadedWeight> FindUnloaded(const Replay& replay, NodeId target);

}  // namespace paritrace
