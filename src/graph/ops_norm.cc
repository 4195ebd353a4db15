// RMSNorm (arXiv:1910.07467) and LayerNorm (arXiv:1607.06450), with the roundings of the HF code: the statistics in the
// inner precision, a cast to storage, then the weight. ggml has the same steps, all in f32.
#include <cmath>

#include "core/parallel.h"
#include "graph/ops.h"

namespace paritrace {
namespace {

struct Moments {
  double mean, reciprocal;  // reciprocal of the root of (variance or mean square) + eps
};

Moments MomentsOf(std::span<const double> x, const NormOp& op, const Arithmetic& arithmetic) {
  const Rounding inner = arithmetic.inner;
  const auto n = static_cast<double>(x.size());
  double mean = 0;
  if (op.kind == NormKind::kLayer) {
    Summer sum(arithmetic.reduce);
    for (const double value : x) sum.Add(value);
    mean = Round(inner, sum.sum() / n);
  }
  Summer squares(arithmetic.reduce);
  for (const double value : x) squares.Add(Round(inner, (value - mean) * (value - mean)));
  const double mean_square = Round(arithmetic.At(Step::kMean, inner), squares.sum() / n);
  const double root = Round(arithmetic.At(Step::kRoot, Rounding::kNone), std::sqrt(Round(inner, mean_square + op.eps)));
  return {mean, Round(arithmetic.At(Step::kReciprocal, inner), 1.0 / root)};
}

}  // namespace

Value ComputeNorm(const NormOp& op, const Value& x, const Weight* weight, const Weight* bias,
                  const Arithmetic& arithmetic) {
  std::vector<double> scale = !op.weight_values.empty() ? op.weight_values
                              : weight != nullptr       ? VectorWeight(*weight, arithmetic)
                                                        : std::vector<double>();
  const std::vector<double> shift = bias != nullptr ? VectorWeight(*bias, arithmetic) : std::vector<double>();
  const Rounding inner = arithmetic.inner, storage = arithmetic.storage;
  // Gemma multiplies inside f32, the others after a cast to storage.
  const bool plus_two = op.use == NormWeight::kPlusTwo, plus_one = plus_two || op.use == NormWeight::kPlusOne;
  const Rounding used = arithmetic.At(Step::kWeight, plus_one ? inner : Rounding::kNone),
                 normed = arithmetic.At(Step::kNormed, plus_one || op.kind == NormKind::kLayer ? inner : storage),
                 output = arithmetic.At(Step::kOutput, storage);
  if (plus_two) {
    for (double& value : scale)
      value = Round(arithmetic.weights, value + 1);  // a converter adds it in the weight's type
  }
  const std::int64_t group = op.group > 0 ? op.group : x.cols();
  Value out(x.shape);
  ParallelFor(x.rows(), 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      for (std::int64_t start = 0; start < x.cols(); start += group) {
        const auto in = x.row(r).subspan(static_cast<std::size_t>(start), static_cast<std::size_t>(group));
        const auto to = out.row(r).subspan(static_cast<std::size_t>(start), static_cast<std::size_t>(group));
        const Moments moments = MomentsOf(in, op, arithmetic);
        for (std::size_t i = 0; i < in.size(); ++i) {
          double y = Round(inner, Round(inner, in[i] - moments.mean) * moments.reciprocal);
          // A weight shared by all heads (q and k norms) is as long as one of them; otherwise it spans the row.
          const std::size_t lane = static_cast<std::size_t>(start) + i, w = scale.empty() ? lane : lane % scale.size();
          if (op.kind == NormKind::kLayer) {  // one fused kernel: a single rounding to storage at the end
            const double plus = plus_one ? 1.0 : 0.0;
            y = Round(normed, y);
            if (!scale.empty() && op.use != NormWeight::kMissing)
              y = Round(inner, y * (plus + scale[w]) * op.weight_factor);
            if (op.use == NormWeight::kTwice) y = Round(inner, y * scale[w]);
            if (!shift.empty()) y = Round(inner, y + shift[w]);
          } else if (plus_one) {
            y = Round(inner, Round(normed, y) * Round(used, 1.0 + scale[w] * op.weight_factor));
          } else if (!scale.empty() && op.use != NormWeight::kMissing) {
            y = Round(normed, y) * Round(used, scale[w]) * op.weight_factor;
            if (op.use == NormWeight::kTwice) y = Round(storage, y) * scale[w];
          }
          if (op.kind == NormKind::kRms && !shift.empty()) y = Round(storage, y) + shift[w];
          to[i] = Round(output, y);
        }
      }
    }
  });
  return out;
}

}  // namespace paritrace
