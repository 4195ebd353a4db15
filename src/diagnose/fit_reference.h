// Makes an inferred graph that of the reference: norm weights by least squares, and for every op the parameters under which
// the reference's own values follow from its own inputs. What no known parameter explains stays unproven, and is not judged.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "diagnose/replay.h"

namespace paritrace {

// Of a node: do the reference's values follow from the op, within its noise? kNoInputs: what it is computed from is not recorded.
enum class Proof : std::uint8_t { kNotRecorded, kNoInputs, kNone, kProven };

struct FittedReference {
  std::vector<Proof> proof;                 // [nodes]
  std::vector<std::string> learned;         // sentences: what the model has beyond Llama's defaults
  std::deque<std::vector<double>> storage;  // of fitted weights; must outlive the graph
};

// graph: that of `replay`, which must not have run yet; it is changed in place, and the replay is run on the way.
[[nodiscard]] FittedReference FitReference(Graph& graph, Replay& replay);

// Weights of a norm over `group` lanes (0: the row), by least squares over all rows known; its kind and eps are those that
// leave least. nullopt with fewer rows than a fit leaves anything to test by.
struct FittedNorm {
  NormOp op;
  std::vector<double> weight, bias;  // bias empty for RMSNorm
  double doubt = 0;                  // rms error that the estimate leaves in the op, relative to its result
};
[[nodiscard]] std::optional<FittedNorm> FitNorm(const Value& x, const RecordedSite& y, std::int64_t group);

}  // namespace paritrace
