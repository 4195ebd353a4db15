// Curves that engines compute in place of a special function: approximations, clips, tables, and other activations.
// Data, not mechanism: propose_curve.cc tries them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace paritrace {

using Curve = std::function<double(double)>;

struct KnownCurve {
  std::string name;
  Curve of;
  bool vector_kernels = false;    // clean f32 kernels compute it: a mistake only where f64 is claimed
  bool other_activation = false;  // one that a config may name, and not an approximation of another
};

// What may stand where a model has an activation, tanh in a soft cap, exp(x <= 0) in a softmax, or a sigmoid.
[[nodiscard]] std::vector<KnownCurve> ActivationCurves(Activation right);
[[nodiscard]] std::vector<KnownCurve> TanhCurves();
[[nodiscard]] std::vector<KnownCurve> ExpCurves();
[[nodiscard]] std::vector<KnownCurve> SigmoidCurves();

}  // namespace paritrace
