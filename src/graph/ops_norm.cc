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
  const double mean_square = Round(inner, squares.sum() / n);
  return {mean, Round(inner, 1.0 / std::sqrt(Round(inner, mean_square + op.eps)))};
}

}  // namespace

Value ComputeNorm(const NormOp& op, const Value& x, const Weight* weight, const Weight* bias,
                  const Arithmetic& arithmetic) {
  const std::vector<double> scale = weight != nullptr ? VectorWeight(*weight, arithmetic) : std::vector<double>();
  const std::vector<double> shift = bias != nullptr ? VectorWeight(*bias, arithmetic) : std::vector<double>();
  const Rounding inner = arithmetic.inner, storage = arithmetic.storage;
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
          // A weight shared by all groups (q and k norms) is as long as one group; otherwise it spans the row.
          const std::size_t w = scale.size() == in.size() ? i : static_cast<std::size_t>(start) + i;
          if (op.kind == NormKind::kLayer) {  // one fused kernel: a single rounding to storage at the end
            const double plus = op.use == NormWeight::kPlusOne ? 1.0 : 0.0;
            if (!scale.empty() && op.use != NormWeight::kMissing)
              y = Round(inner, y * (plus + scale[w]) * op.weight_factor);
            if (op.use == NormWeight::kTwice) y = Round(inner, y * scale[w]);
            if (!shift.empty()) y = Round(inner, y + shift[w]);
          } else if (op.use == NormWeight::kPlusOne) {  // Gemma: weight + 1 and the product inside f32
            y = Round(inner, y * Round(inner, 1.0 + scale[w] * op.weight_factor));
          } else if (!scale.empty() && op.use != NormWeight::kMissing) {
            y = Round(storage, y);
            y = Round(storage, y * scale[w] * op.weight_factor);
            if (op.use == NormWeight::kTwice) y = Round(storage, y * scale[w]);
          }
          if (op.kind == NormKind::kRms && !shift.empty()) y = Round(storage, Round(storage, y) + shift[w]);
          to[i] = Round(storage, y);
        }
      }
    }
  });
  return out;
}

}  // namespace paritrace
