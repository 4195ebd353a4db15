// The mixture of experts that several architectures share, from the router to the sum of what the experts give.
#pragma once

#include <string>
#include <vector>

#include "arch/binder.h"

namespace paritrace {

struct MixturePlan {
  std::int64_t experts = 0, used = 0;
  std::int64_t hidden = 0, width = 0;  // width of one expert's inside
  Activation activation = Activation::kSilu;
  bool gated = true;
  bool normalised = false;        // the weights of the chosen are divided by their sum
  bool wide_weights = false;      // torch keeps the weights in f32
  std::int64_t shared_width = 0;  // 0: no expert that all tokens use
  std::vector<bool> layers;       // which layers are mixtures
};

// Errors: FormatError naming the config's key where the plan's numbers do not make a mixture.
void CheckMixture(const ModelSource& source, const MixturePlan& plan, std::string_view experts_key,
                  std::string_view used_key);

// Adds router_logits, probs, experts, weights and out of one layer; returns the node to add to the stream, at `mlp.out`.
// The weights are found under the names of HF (one tensor an expert, or all in one) and of GGUF.
NodeId AddMixture(Binder& bind, const MixturePlan& plan, int layer, NodeId x);

}  // namespace paritrace
