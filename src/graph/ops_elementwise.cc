// Activations, sums and scalings.
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "graph/ops.h"

namespace paritrace {
namespace {

double Apply(Activation function, double x) {
  switch (function) {
    case Activation::kIdentity: return x;
    case Activation::kSilu: return x / (1.0 + std::exp(-x));
    case Activation::kGeluErf: return 0.5 * x * (1.0 + std::erf(x * std::numbers::sqrt2 / 2.0));
    // Hendrycks and Gimpel, arXiv:1606.08415, section 2.
    case Activation::kGeluNew:
    case Activation::kGeluTanh:
      return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Activation::kGeluQuick: return x / (1.0 + std::exp(-1.702 * x));
    case Activation::kRelu: return x > 0 ? x : (std::isnan(x) ? x : 0.0);
    case Activation::kReluSquared: return x > 0 ? x * x : (std::isnan(x) ? x : 0.0);
    case Activation::kSigmoid: return 1.0 / (1.0 + std::exp(-x));
    case Activation::kTanh: return std::tanh(x);
  }
  return x;
}

// erf as vector kernels compute it in f32 (torch's among them): Abramowitz and Stegun, Handbook of Mathematical Functions,
// formula 7.1.26, largest error 1.5e-7 before rounding. Near -1 that is all that is left of 1 + erf.
double VectorErf(double x, Rounding inner) {
  const auto round = [inner](double value) { return Round(inner, value); };
  const double t = round(1.0 / round(1.0 + round(0.3275911 * std::fabs(x))));
  double sum = 1.061405429;
  for (const double term : {-1.453152027, 1.421413741, -0.284496736, 0.254829592}) sum = round(round(sum * t) + term);
  const double tail = round(round(sum * t) * round(std::exp(round(-x * x))));
  return std::copysign(round(1.0 - tail), x);
}

// The steps of a kernel that computes in f32 throughout, as a sample of what such a kernel's own roundings add.
double ApplyInSteps(Activation function, double x, Rounding inner) {
  const auto sigmoid = [&](double z) { return Round(inner, 1.0 / Round(inner, 1.0 + Round(inner, std::exp(-z)))); };
  switch (function) {
    case Activation::kSilu: return Round(inner, x * sigmoid(x));
    case Activation::kGeluQuick: return Round(inner, x * sigmoid(Round(inner, 1.702 * x)));
    case Activation::kGeluErf:
      return Round(inner, Round(inner, 0.5 * x) *
                              Round(inner, 1.0 + VectorErf(Round(inner, x * (std::numbers::sqrt2 / 2.0)), inner)));
    case Activation::kGeluTanh: {
      const double cube = Round(inner, Round(inner, x * x) * x);
      const double argument =
          Round(inner, std::sqrt(2.0 / std::numbers::pi) * Round(inner, x + Round(inner, 0.044715 * cube)));
      return Round(inner, Round(inner, 0.5 * x) * Round(inner, 1.0 + Round(inner, std::tanh(argument))));
    }
    default: return Apply(function, x);
  }
}

// JAX lowers SiLU and GELU to chains of ops, each of which stores its result, its constants too (jax.nn.gelu).
double ApplyStepwise(Activation function, double x, Rounding storage) {
  const auto stored = [storage](double value) { return Round(storage, value); };
  switch (function) {
    case Activation::kSilu: return x * stored(1.0 / stored(1.0 + stored(std::exp(-x))));
    case Activation::kGeluErf: return stored(0.5 * x) * stored(std::erfc(stored(-x * stored(std::sqrt(0.5)))));
    case Activation::kGeluTanh: {
      const double sum = stored(x + stored(stored(0.044715) * stored(stored(x * x) * x)));
      return x * stored(0.5 * stored(1.0 + stored(std::tanh(stored(stored(std::sqrt(2.0 / std::numbers::pi)) * sum)))));
    }
    default: return Apply(function, x);
  }
}

// The sigmoid of ONNX Runtime's CPU kernels: x p(x^2) / q(x^2) + 1/2 on [-18, 18], minimax polynomials, in f32 with one
// rounding a multiply-add. Near 1/2 its absolute error stays that of f32, so small values lose relative precision.
// Source: the coefficients are those of Eigen's logistic (unsupported/Eigen, 2017) and of MLAS (MlasLogisticConstants).
double RationalSigmoid(double x) {
  constexpr float kBound = 18.0f;
  constexpr std::array kNumerator = {4.37031012579801e-11f, 1.15627324459942e-07f, 6.08574864600143e-05f,
                                     8.51377133304701e-03f, 2.48287947061529e-01f};
  constexpr std::array kDenominator = {6.10247389755681e-13f, 5.76102136993427e-09f, 6.29106785017040e-06f,
                                       1.70198817374094e-03f, 1.16817656904453e-01f, 9.93151921023180e-01f};
  if (std::isnan(x)) return x;
  const float z = std::clamp(static_cast<float>(x), -kBound, kBound), square = z * z;
  const auto horner = [square](const auto& coefficients) {
    float sum = coefficients[0];
    for (std::size_t i = 1; i < coefficients.size(); ++i) sum = std::fma(sum, square, coefficients[i]);
    return sum;
  };
  return std::clamp(horner(kNumerator) * z / horner(kDenominator) + 0.5f, 0.0f, 1.0f);
}

// ONNX writes SiLU as a product with a sigmoid, and GELU step by step: every result is stored.
double ApplyRational(Activation function, double x, Rounding storage) {
  if (function == Activation::kGeluErf || function == Activation::kGeluTanh) return ApplyInSteps(function, x, storage);
  if (function == Activation::kSilu) return x * RationalSigmoid(x);
  if (function == Activation::kGeluQuick) return x * RationalSigmoid(Round(storage, 1.702 * x));
  if (function == Activation::kSigmoid) return RationalSigmoid(x);
  return Apply(function, x);
}

// ggml looks GELU up in a table of all f16 numbers; beyond 10 the curve is a straight line, and taken as one.
double ApplyFromTable(Activation function, double x) {
  if (function != Activation::kGeluTanh && function != Activation::kGeluNew && function != Activation::kGeluQuick)
    return Apply(function, x);
  if (function != Activation::kGeluQuick && std::fabs(x) >= 10) return x > 0 ? x : 0.0;
  return Round(Rounding::kF16, Round(Rounding::kF32, Apply(function, Round(Rounding::kF16, x))));
}

// torch's elementwise operations, one after another: each result is stored.
double ApplyComposed(double x, Rounding storage) {
  const auto stored = [storage](double value) { return Round(storage, value); };
  const double argument =
      stored(std::sqrt(2.0 / std::numbers::pi) * stored(x + stored(0.044715 * stored(stored(x * x) * x))));
  return stored(stored(0.5 * x) * stored(1.0 + stored(std::tanh(argument))));
}

double ApplyWith(const Arithmetic& arithmetic, Activation function, double x) {
  if (function == Activation::kGeluNew && !arithmetic.is_ggml()) return ApplyComposed(x, arithmetic.storage);
  switch (arithmetic.activation) {
    case ActivationKernel::kExact: return Apply(function, x);
    case ActivationKernel::kVector: return ApplyInSteps(function, x, arithmetic.inner);
    case ActivationKernel::kStoredSteps: return ApplyStepwise(function, x, arithmetic.storage);
    case ActivationKernel::kRational: return ApplyRational(function, x, arithmetic.storage);
    case ActivationKernel::kGgml: return ApplyFromTable(function, x);
  }
  return x;
}

}  // namespace

double TrueActivation(Activation function, double x) { return Apply(function, x); }

Value ComputeActivation(const ActivationOp& op, std::span<const Value* const> inputs, const Arithmetic& arithmetic,
                        SpecialFunction curve) {
  const Rounding storage = arithmetic.storage, output = arithmetic.At(Step::kOutput, storage);
  Value out(inputs[0]->shape);
  for (std::size_t i = 0; i < out.data.size(); ++i) {
    const double x = inputs[0]->data[i];
    const double y = curve != nullptr ? (*curve)(x) : ApplyWith(arithmetic, op.function, x);
    out.data[i] = Round(output, inputs.size() > 1 ? Round(storage, y) * inputs[1]->data[i] : y);
  }
  return out;
}

Value ComputeAdd(const AddOp& op, std::span<const Value* const> inputs, const Arithmetic& arithmetic) {
  const Rounding output = arithmetic.At(Step::kOutput, arithmetic.storage);
  Value out(inputs[0]->shape);
  for (std::size_t i = 0; i < out.data.size(); ++i) {
    double sum = 0;
    for (std::size_t j = 0; j < inputs.size(); ++j) {
      const double factor = op.factors.empty() ? 1.0 : op.factors[j];
      const double term = factor == 1 ? inputs[j]->data[i] : Round(arithmetic.storage, inputs[j]->data[i] * factor);
      sum = j == 0 ? term : Round(j + 1 < inputs.size() ? arithmetic.storage : output, sum + term);
    }
    // A sum of one term is a copy, which nothing rounds but a mark.
    out.data[i] = inputs.size() == 1 && arithmetic.IsMarked(Step::kOutput) ? Round(output, sum) : sum;
  }
  return out;
}

Value ComputeScale(const ScaleOp& op, const Value& x, const Arithmetic& arithmetic, SpecialFunction tanh) {
  const Rounding storage = arithmetic.storage;
  Value out(x.shape);
  for (std::size_t i = 0; i < out.data.size(); ++i) {
    double y = op.factor == 1 ? x.data[i] : Round(storage, x.data[i] * op.factor);
    if (op.softcap > 0) {
      y = Round(storage, y / op.softcap);
      y = Round(storage, tanh != nullptr ? (*tanh)(y) : std::tanh(y));
      y = Round(storage, y * op.softcap);
    }
    out.data[i] = y;
  }
  return out;
}

Value ComputeGate(const GateOp& op, const Value& x, const Value& gate, const Arithmetic& arithmetic,
                  SpecialFunction sigmoid) {
  Value out = x;
  if (!op.applied) return out;
  for (std::int64_t t = 0; t < x.rows(); ++t) {
    const double logit = gate.row(t)[0];
    const double open =
        Round(arithmetic.storage,
              sigmoid != nullptr ? (*sigmoid)(logit) : ApplyWith(arithmetic, Activation::kSigmoid, logit));
    for (double& value : out.row(t)) value = Round(arithmetic.storage, value * open);
  }
  return out;
}

}  // namespace paritrace
