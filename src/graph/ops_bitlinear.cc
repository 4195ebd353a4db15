// BitNet's linear layers, as transformers runs them: the activations' rounding to int8 is part of the model, not of an engine.
#include <algorithm>
#include <cmath>

#include "core/decode.h"
#include "graph/ops.h"

namespace paritrace {
namespace {

constexpr double kSmallest = 1e-5;  // what no scale's divisor falls below

double Largest(std::span<const double> values) {
  double largest = kSmallest;
  for (const double x : values) largest = std::fabs(x) > largest || std::isnan(x) ? std::fabs(x) : largest;
  return largest;
}

// What the activations are multiplied by, for each token. torch divides a number by a tensor as number times reciprocal.
std::vector<double> Scales(const LinearOp& op, const Value& x, const RunInput& run, Rounding rounding) {
  std::vector<double> scales;
  for (std::int64_t t = 0; t < x.rows(); ++t) {
    std::span<const double> values = x.row(t);
    if (op.int8 == Int8Scope::kTensor) {  // a tensor is what one forward call computes
      const auto [first, last] = run.CallOf(t);
      values = std::span(x.data).subspan(static_cast<std::size_t>(first * x.cols()),
                                         static_cast<std::size_t>((last - first) * x.cols()));
    }
    scales.push_back(Round(rounding, op.int8_range * Round(rounding, 1.0 / Round(rounding, Largest(values)))));
  }
  return scales;
}

// Nearest whole number, halves to even, in int8's range.
double Code(double scaled) { return std::isnan(scaled) ? scaled : std::clamp(std::nearbyint(scaled), -128.0, 127.0); }

// The weights as -1, 0, 1 times their mean magnitude.
Weight RoundedToTernary(const Weight& weight, const Arithmetic& arithmetic, std::vector<float>& storage) {
  std::vector<double> values = DecodeAll(weight.tensor);
  RoundAll(arithmetic.weights, values);
  double sum = 0;
  for (const double w : values) sum += std::fabs(w);
  const Rounding inner = arithmetic.inner;
  const double mean = Round(inner, sum / static_cast<double>(std::max<std::size_t>(values.size(), 1)));
  const double scale = Round(inner, 1.0 / std::max(mean, kSmallest));
  storage.reserve(values.size());
  for (const double w : values)
    storage.push_back(
        static_cast<float>(Round(inner, std::clamp(std::nearbyint(Round(inner, w * scale)), -1.0, 1.0) / scale)));
  Weight rounded = weight;
  rounded.tensor.dtype = DType::kF32;
  rounded.tensor.bytes = std::as_bytes(std::span(storage));
  return rounded;
}

}  // namespace

Value ComputeBitLinear(const LinearOp& op, const Value& x, const Weight& weight, const Weight* bias,
                       const RunInput& run, const Arithmetic& arithmetic) {
  const Rounding storage = arithmetic.storage;
  const bool codes = op.bits == BitLinear::kCodes;
  LinearOp plain = op;
  plain.bits = BitLinear::kNone;
  Value rounded = x;
  // The float variants round in f32 and store the values they get.
  const Rounding steps = codes ? storage : arithmetic.inner;
  std::vector<double> scales(static_cast<std::size_t>(x.rows()), 1.0);
  if (op.int8 != Int8Scope::kMissing) {
    scales = Scales(op, x, run, steps);
    for (std::int64_t t = 0; t < x.rows(); ++t) {
      const double scale = scales[static_cast<std::size_t>(t)];
      for (double& value : rounded.row(t)) {
        value = Code(Round(steps, value * scale));
        if (!codes) value = Round(storage, Round(steps, value / scale));
      }
    }
  }
  std::vector<float> ternary;
  const bool online = op.bits == BitLinear::kOnline;
  Value out = ComputeLinear(plain, rounded, online ? RoundedToTernary(weight, arithmetic, ternary) : weight, nullptr,
                            arithmetic);
  const std::vector<double> shift = bias != nullptr ? VectorWeight(*bias, arithmetic) : std::vector<double>();
  const double weight_scale = Round(arithmetic.weights, op.weight_scale);
  for (std::int64_t t = 0; t < out.rows(); ++t) {
    const double divisor = Round(storage, weight_scale * scales[static_cast<std::size_t>(t)]);
    const auto row = out.row(t);
    for (std::size_t c = 0; c < row.size(); ++c) {
      if (codes) row[c] = Round(storage, row[c] / divisor);
      if (!shift.empty() && !codes) row[c] = Round(storage, row[c] + shift[c]);
      if (op.bits == BitLinear::kValues) row[c] = Round(storage, row[c] * weight_scale);
      if (!shift.empty() && codes) row[c] = Round(storage, row[c] + shift[c]);
    }
  }
  return out;
}

}  // namespace paritrace
