// Rotary position embedding (RoFormer, arXiv:2104.09864), both lane pairings, with the roundings of HF and of ggml.
#include <cmath>

#include "core/parallel.h"
#include "graph/ops.h"

namespace paritrace {
namespace {

struct Turn {
  double cosine, sine;
};

// One turn a pair of lanes at one position.
std::vector<Turn> TurnsAt(const RopeOp& op, std::int64_t position, const Arithmetic& arithmetic) {
  const Rounding inner = arithmetic.inner, storage = arithmetic.rope_angle_iterated ? inner : arithmetic.storage;
  const auto pairs = static_cast<std::size_t>(op.rotary_dim / 2);
  const Rounding to_frequency = arithmetic.At(Step::kFrequency, inner), to_angle = arithmetic.At(Step::kAngle, inner),
                 to_table = arithmetic.At(Step::kTable, storage);
  const double p = Round(arithmetic.At(Step::kPosition, inner),
                         Round(inner, static_cast<double>(position + op.position_offset) * op.position_scale));
  const double step = Round(inner, std::pow(op.theta, -2.0 / static_cast<double>(op.exponent_dim)));
  std::vector<Turn> turns(pairs);
  double iterated = p;
  for (std::size_t i = 0; i < pairs; ++i) {
    double angle = 0;
    if (arithmetic.rope_angle_iterated) {
      const double factor = op.frequency_factors.empty() ? 1.0 : op.frequency_factors[i];
      angle = Round(to_angle, iterated / factor);
      iterated = Round(inner, iterated * step);
    } else {
      const double exponent = Round(inner, 2.0 * static_cast<double>(i) / static_cast<double>(op.exponent_dim));
      double frequency = Round(inner, 1.0 / Round(inner, std::pow(op.theta, exponent)));
      if (!op.frequency_factors.empty()) frequency = Round(inner, frequency / op.frequency_factors[i]);
      angle = Round(to_angle, Round(to_frequency, frequency) * p);
    }
    angle *= op.direction;
    turns[i] = {Round(to_table, Round(inner, Round(inner, std::cos(angle)) * op.magnitude)),
                Round(to_table, Round(inner, Round(inner, std::sin(angle)) * op.magnitude))};
  }
  return turns;
}

void TurnRow(const RopeOp& op, const std::vector<Turn>& turns, const Arithmetic& arithmetic, std::span<double> row) {
  const Rounding storage = arithmetic.storage, output = arithmetic.At(Step::kOutput, storage);
  const auto head_dim = static_cast<std::size_t>(op.head_dim), half = turns.size();
  for (std::size_t head = 0; head < static_cast<std::size_t>(op.heads); ++head) {
    double* lanes = row.data() + head * head_dim;
    for (std::size_t i = 0; i < half; ++i) {
      const bool split = op.pairing == RopePairing::kHalfSplit;
      double& a = lanes[split ? i : 2 * i];
      double& b = lanes[split ? i + half : 2 * i + 1];
      const double x = a, y = b;
      a = Round(output, Round(storage, x * turns[i].cosine) - Round(storage, y * turns[i].sine));
      b = Round(output, Round(storage, y * turns[i].cosine) + Round(storage, x * turns[i].sine));
    }
  }
}

}  // namespace

Value ComputeRope(const RopeOp& op, const Value& x, const RunInput& run, const Arithmetic& arithmetic) {
  Value out = x;
  ParallelFor(x.rows(), 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::vector<Turn> turns = TurnsAt(op, run.positions[static_cast<std::size_t>(t)], arithmetic);
      for (int time = 0; time < op.times; ++time) TurnRow(op, turns, arithmetic, out.row(t));
      if (op.row_factors.empty()) continue;
      for (double& lane : out.row(t))
        lane = Round(arithmetic.storage, lane * op.row_factors[static_cast<std::size_t>(t)]);
    }
  });
  return out;
}

}  // namespace paritrace
