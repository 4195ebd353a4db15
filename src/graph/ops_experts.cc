// A mixture of experts: the router's probabilities, its choice, and the sum of what the chosen experts give.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <fmt/format.h>

#include "core/decode.h"
#include "core/error.h"
#include "graph/ops.h"

namespace paritrace {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

// Where an expert is at work: a token, and the expert's rank among the token's.
struct Use {
  std::int64_t token, rank;
};

std::vector<std::vector<Use>> UsesByExpert(const Value& experts, std::size_t count) {
  std::vector<std::vector<Use>> uses(count);
  for (std::int64_t t = 0; t < experts.rows(); ++t) {
    for (std::int64_t rank = 0; rank < experts.cols(); ++rank) {
      const double id = experts.row(t)[static_cast<std::size_t>(rank)];
      if (id >= 0 && id < static_cast<double>(count)) uses[static_cast<std::size_t>(id)].push_back({t, rank});
    }
  }
  return uses;
}

// The same matrix with rows for outputs. Only experts of one family are stored the other way.
Weight Turned(const Weight& weight, std::vector<float>& storage) {
  const std::int64_t rows = weight.tensor.shape[0], cols = weight.tensor.shape[1];
  const std::vector<double> values = DecodeAll(weight.tensor);
  storage.resize(values.size());
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c)
      storage[static_cast<std::size_t>(c * rows + r)] =
          static_cast<float>(values[static_cast<std::size_t>(r * cols + c)]);
  }
  Weight turned = weight;
  turned.tensor.dtype = DType::kF32;
  turned.tensor.shape = {cols, rows};
  turned.tensor.bytes = std::as_bytes(std::span(storage));
  return turned;
}

Value RunExpert(const ExpertsOp& op, const Expert& expert, const Value& x, const Graph& graph,
                const Arithmetic& arithmetic) {
  const auto weight = [&](WeightId id) -> const Weight& { return graph.weights[static_cast<std::size_t>(id)]; };
  const Value up = ComputeLinear({}, x, weight(expert.up), nullptr, arithmetic);
  Value gate;
  std::vector<const Value*> inputs = {&up};
  if (expert.gate != kAbsent) {
    gate = ComputeLinear({}, x, weight(expert.gate), nullptr, arithmetic);
    inputs.insert(inputs.begin(), &gate);
  }
  const Value act = ComputeActivation({op.function}, inputs, arithmetic);
  if (!op.down_rows_are_inputs) return ComputeLinear({}, act, weight(expert.down), nullptr, arithmetic);
  std::vector<float> storage;
  return ComputeLinear({}, act, Turned(weight(expert.down), storage), nullptr, arithmetic);
}

}  // namespace

Value ComputeRouterProbs(const Value& logits, const Arithmetic& arithmetic) {
  return ComputeSoftmax({}, logits, {}, arithmetic);
}

Value ComputeTopExperts(const TopExpertsOp& op, const Value& probs) {
  const std::int64_t used = std::min(op.used, probs.cols());
  Value out({probs.rows(), used});
  std::vector<std::int64_t> order(static_cast<std::size_t>(probs.cols()));
  for (std::int64_t t = 0; t < probs.rows(); ++t) {
    const auto row = probs.row(t);
    if (std::ranges::any_of(row, [](double p) { return std::isnan(p); })) {
      std::ranges::fill(out.row(t), kNone);
      continue;
    }
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return row[static_cast<std::size_t>(a)] > row[static_cast<std::size_t>(b)];
    });
    std::copy_n(order.begin(), used, out.row(t).begin());
  }
  for (const auto& [token, experts] : op.given) {
    if (token < out.rows() && static_cast<std::int64_t>(experts.size()) == used)
      std::ranges::copy(experts, out.row(token).begin());
  }
  return out;
}

Value ComputeExpertWeights(const ExpertWeightsOp& op, const Value& probs, const Value& experts,
                           const Arithmetic& arithmetic) {
  const Rounding inner = arithmetic.inner;
  Value out(experts.shape);
  for (std::int64_t t = 0; t < out.rows(); ++t) {
    const auto row = out.row(t);
    Summer sum(arithmetic.reduce);
    for (std::size_t i = 0; i < row.size(); ++i) {
      const double id = experts.row(t)[i];
      row[i] = id >= 0 && id < static_cast<double>(probs.cols()) ? probs.row(t)[static_cast<std::size_t>(id)] : kNone;
      sum.Add(row[i]);
    }
    const double total = Round(op.stored_sum ? arithmetic.storage : inner, sum.sum());
    if (op.reversed) std::ranges::reverse(row);
    for (double& weight : row) {
      if (op.normalised) weight = Round(inner, weight / total);
      if (op.factor != 1) weight = Round(inner, weight * op.factor);
      weight = Round(arithmetic.storage, weight);
    }
  }
  return out;
}

Value ComputeExperts(const ExpertsOp& op, const Value& x, const Value& experts, const Value& weights,
                     const Graph& graph, const Weight* bias, const Arithmetic& arithmetic) {
  const std::int64_t width = x.cols(), used = experts.cols();
  if (weights.shape != experts.shape || experts.rows() != x.rows()) {
    throw InternalError(fmt::format("experts {} and weights {} do not belong together", ToString(experts.shape),
                                    ToString(weights.shape)));
  }
  const Rounding product = op.wide_weights ? arithmetic.inner : arithmetic.storage;
  // terms[t, rank]: weight * expert(x). NaN where the token's expert is not known.
  Value terms({x.rows(), used, width});
  std::ranges::fill(terms.data, kNone);
  const std::vector<std::vector<Use>> uses = UsesByExpert(experts, op.experts.size());
  for (std::size_t e = 0; e < uses.size(); ++e) {
    if (uses[e].empty()) continue;
    Value rows({static_cast<std::int64_t>(uses[e].size()), width});
    for (std::size_t i = 0; i < uses[e].size(); ++i)
      std::ranges::copy(x.row(uses[e][i].token), rows.row(static_cast<std::int64_t>(i)).begin());
    const Value given = RunExpert(op, op.experts[e], rows, graph, arithmetic);
    for (std::size_t i = 0; i < uses[e].size(); ++i) {
      const Use use = uses[e][i];
      const double weight = weights.row(use.token)[static_cast<std::size_t>(use.rank)];
      const auto from = given.row(static_cast<std::int64_t>(i));
      const auto to = terms.row(use.token * used + use.rank);
      for (std::size_t c = 0; c < to.size(); ++c) to[c] = Round(product, from[c] * weight);
    }
  }
  const std::vector<double> shift = bias != nullptr ? VectorWeight(*bias, arithmetic) : std::vector<double>();
  const bool by_expert = arithmetic.mixture == Mixture::kByExpert;
  Value out({x.rows(), width});
  for (std::int64_t t = 0; t < x.rows(); ++t) {
    std::vector<std::int64_t> order(static_cast<std::size_t>(used));
    std::iota(order.begin(), order.end(), 0);
    if (by_expert)
      std::ranges::stable_sort(order, {},
                               [&](std::int64_t rank) { return experts.row(t)[static_cast<std::size_t>(rank)]; });
    const auto row = out.row(t);
    for (const std::int64_t rank : order) {
      const auto term = terms.row(t * used + rank);
      for (std::size_t c = 0; c < row.size(); ++c) {
        row[c] = by_expert ? Round(arithmetic.storage, row[c] + Round(arithmetic.storage, term[c]))
                           : Round(arithmetic.inner, row[c] + term[c]);
      }
    }
    for (std::size_t c = 0; c < row.size(); ++c) {
      row[c] = Round(arithmetic.storage, op.factor == 1 ? row[c] : row[c] * op.factor);
      if (!shift.empty()) row[c] = Round(arithmetic.storage, row[c] + shift[c] * op.bias_factor);
    }
  }
  return out;
}

}  // namespace paritrace
