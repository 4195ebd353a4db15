// Kernels that are right but for a range or a size: values past the largest number of a type, and rows, columns or inputs
// past the last whole tile.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "diagnose/row_sample.h"
#include "graph/kernel_fault.h"

namespace paritrace {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kWorthReplaying = 0.4;

struct Limit {
  double value;
  const char* type;
};
constexpr std::array kLimits = {Limit{127, "int8"},
                                Limit{240, "f8 e4m3fnuz"},
                                Limit{448, "f8 e4m3"},
                                Limit{32767, "int16"},
                                Limit{57344, "f8 e5m2"},
                                Limit{65504, "f16"},
                                Limit{3.3895313892515355e38, "bf16"}};

std::string Describe(double limit) {
  for (const Limit& known : kLimits) {
    if (known.value == limit) return fmt::format("{:g}, the largest {}", limit, known.type);
  }
  return fmt::format("{:g}", limit);
}

void PushOutput(const SearchSite& site, const Node& node, const char* cause, nlohmann::ordered_json found,
                std::string statement, std::string fix, decltype(KernelFault::output) output, int parameters,
                std::vector<Hypothesis>& out) {
  auto fault = std::make_shared<KernelFault>();
  fault->output = std::move(output);
  Node changed = node;
  changed.fault = std::move(fault);
  out.push_back({.cause = cause,
                 .edit = site.With(changed),
                 .found = std::move(found),
                 .statement = std::move(statement),
                 .fix = std::move(fix),
                 .parameters = parameters});
}

bool TokenKnown(const RecordedSite& recorded, std::size_t index) {
  return recorded.token_known[index / static_cast<std::size_t>(recorded.value.cols())];
}

// The values that overflow are those of largest magnitude, all of them and no others: the limit lies between.
struct Split {
  double below = 0, above = kInfinity;  // largest healthy, smallest spoilt magnitude
  std::int64_t spoilt = 0, healthy = 0;
  bool nan = true;  // all of the spoilt are NaN
};

void ProposeInfinite(const SearchSite& site, const Node& node, const Value& right, std::vector<Hypothesis>& out) {
  const RecordedSite& recorded = site.replay().recording().At(node.id);
  Split split;
  for (std::size_t i = 0; i < right.data.size(); ++i) {
    const double x = recorded.value.data[i], magnitude = std::fabs(right.data[i]);
    if (!TokenKnown(recorded, i) || !std::isfinite(magnitude)) continue;
    if (std::isfinite(x)) {
      ++split.healthy;
      split.below = std::max(split.below, magnitude);
    } else {
      ++split.spoilt;
      split.above = std::min(split.above, magnitude);
      split.nan = split.nan && std::isnan(x);
    }
  }
  if (split.spoilt == 0 || split.healthy == 0 || !(split.below < split.above)) return;
  const auto* known = std::ranges::find_if(
      kLimits, [&](const Limit& limit) { return limit.value >= 0.99 * split.below && limit.value < split.above; });
  // Without a type's limit in between, it takes a few values to rule out chance: k of n are the largest k in one of n over k.
  if (known == kLimits.end() && (split.spoilt < 3 || split.healthy < 12)) return;
  const double limit = known != kLimits.end() ? known->value : split.above;
  const double spoilt = split.nan ? std::numeric_limits<double>::quiet_NaN() : kInfinity;
  PushOutput(
      site, node, "kernel.overflow",
      known != kLimits.end() ? nlohmann::ordered_json(known->type) : nlohmann::ordered_json(limit),
      fmt::format("{} values of magnitude from {:.4g} on are not finite, all smaller ones are right: overflow{}",
                  split.spoilt, split.above,
                  known != kLimits.end() ? fmt::format(" past {:g}, the largest {}", known->value, known->type)
                                         : std::string()),
      "accumulate and store in a wider type, or scale first",
      [from = split.above, spoilt](std::span<const Value* const>, Value& value) {
        for (double& x : value.data) {
          if (std::fabs(x) >= from * (1 - 1e-6)) x = std::isnan(spoilt) ? spoilt : std::copysign(spoilt, x);
        }
      },
      1, out);
}

void ProposeSaturated(const SearchSite& site, const Node& node, const Value& right, std::vector<Hypothesis>& out) {
  const RecordedSite& recorded = site.replay().recording().At(node.id);
  double largest = 0;
  for (std::size_t i = 0; i < right.data.size(); ++i) {
    if (TokenKnown(recorded, i) && std::isfinite(recorded.value.data[i]))
      largest = std::max(largest, std::fabs(recorded.value.data[i]));
  }
  std::int64_t at_limit = 0, beyond = 0;
  double smallest = kInfinity, greatest = 0;
  for (std::size_t i = 0; i < right.data.size(); ++i) {
    const double x = recorded.value.data[i], f = right.data[i];
    if (!TokenKnown(recorded, i) || !std::isfinite(f)) continue;
    if (std::fabs(x) == largest && x * f > 0) {
      ++at_limit;
      smallest = std::min(smallest, std::fabs(f));
      greatest = std::max(greatest, std::fabs(f));
    } else if (std::fabs(f) > 1.01 * largest) {
      ++beyond;
    }
  }
  const bool known = std::ranges::any_of(kLimits, [&](const Limit& limit) { return limit.value == largest; });
  if (!known && std::holds_alternative<ActivationOp>(node.op)) return;  // a clip inside the curve
  // One value is always the largest; several that should differ and do not are cut off.
  if (beyond > 0 || greatest < 1.01 * largest || (at_limit < 3 && !known)) return;
  PushOutput(
      site, node, "kernel.overflow", largest,
      fmt::format("{} values that should lie beyond stand at {}: they are saturated", at_limit, Describe(largest)),
      "accumulate and store in a wider type, or scale first",
      [largest](std::span<const Value* const>, Value& value) {
        for (double& x : value.data) x = std::clamp(x, -largest, largest);
      },
      1, out);
}

// A norm whose squares or their sum overflow divides by infinity: its row is zero.
void ProposeNormOverflow(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const std::array<std::pair<int, const char*>, 3> sums = {
      {{0, "a square"}, {1, "the sum of squares"}, {2, "the mean of squares"}}};
  for (const auto& [which, what] : sums) {
    const auto overflows = [which](std::span<const double> row) {
      double sum = 0, largest = 0;
      for (const double x : row) {
        sum += x * x;
        largest = std::max(largest, x * x);
      }
      return (which == 0 ? largest : which == 1 ? sum : sum / static_cast<double>(row.size())) > 65504;
    };
    const Value& x = site.replay().Input(node.inputs[0]);
    std::int64_t rows = 0;
    for (std::int64_t t = 0; t < x.rows(); ++t) rows += overflows(x.row(t)) ? 1 : 0;
    if (rows == 0) continue;
    PushOutput(
        site, node, "kernel.overflow", "f16",
        fmt::format("{} overflows f16 in {} row{}, whose norm is infinite and whose output is zero", what, rows,
                    rows == 1 ? "" : "s"),
        "square and sum in f32",
        [overflows](std::span<const Value* const> inputs, Value& value) {
          for (std::int64_t t = 0; t < value.rows(); ++t) {
            if (overflows(inputs[0]->row(t))) std::ranges::fill(value.row(t), 0.0);
          }
        },
        0, out);
  }
}

// A softmax that takes exp of the scores as they are: past a type's range rows end in infinity over infinity, or in zero over
// zero.
void ProposeSoftmaxOverflow(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  for (const Rounding type : {Rounding::kF16, Rounding::kF32}) {
    const double limit = type == Rounding::kF16 ? std::log(65504.0) : 88.72283905206835;
    const Value& scores = site.replay().Input(node.inputs[0]);
    if (std::ranges::none_of(scores.data, [&](double x) { return std::isfinite(x) && std::fabs(x) > limit; })) continue;
    PushOutput(
        site, node, "kernel.overflow", Name(type),
        fmt::format("exp of scores past {:.4g} leaves the range of {}: softmax does not subtract the maximum first",
                    limit, Name(type)),
        "subtract each row's maximum before exp",
        [type](std::span<const Value* const> inputs, Value& value) {
          for (std::int64_t r = 0; r < value.rows(); ++r) {
            const auto to = value.row(r);
            double sum = 0;
            for (std::size_t i = 0; i < to.size(); ++i) sum += to[i] = Round(type, std::exp(inputs[0]->row(r)[i]));
            for (double& x : to) x /= Round(type, sum);
          }
        },
        0, out);
  }
}

constexpr std::array<std::int64_t, 8> kTiles = {4, 8, 16, 32, 64, 128, 256, 512};

// A loop over whole tiles of the inputs leaves out the rest, or one tile.
void ProposeInputTail(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const std::int64_t in = site.graph().weights[static_cast<std::size_t>(node.weight)].tensor.shape[1];
  std::vector<std::int64_t> tried;
  const RowSample sample(site, node);
  for (const std::int64_t tile : kTiles) {
    for (const std::int64_t end : {in - in % tile, in - tile}) {
      // Leaving out more than a quarter is another mistake: a shard.
      if (end == in || 4 * end < 3 * in || std::ranges::find(tried, end) != tried.end()) continue;
      tried.push_back(end);
      if (!(sample.WithoutInputsFrom(end).left < kWorthReplaying)) continue;
      auto fault = std::make_shared<KernelFault>();
      fault->input = [end](std::vector<Value>& inputs) {
        for (std::int64_t t = 0; t < inputs[0].rows(); ++t)
          std::ranges::fill(inputs[0].row(t).subspan(static_cast<std::size_t>(end)), 0.0);
      };
      Node changed = node;
      changed.fault = std::move(fault);
      out.push_back(
          {.cause = "kernel.shape",
           .edit = site.With(changed),
           .expected = in,
           .found = end,
           .statement = fmt::format("only the first {} of {} inputs are summed: the {} past the last whole tile "
                                    "of {} are left out",
                                    end, in, in - end, tile),
           .fix = "handle the tail of the inner loop"});
    }
  }
}

// The last rows or columns, past a whole number of tiles, are not written: they are zero.
void ProposeUnwritten(const SearchSite& site, const Node& node, const Value& right, std::vector<Hypothesis>& out) {
  const Value& recorded = site.replay().recording().At(node.id).value;
  const auto zero_row = [&](std::int64_t t) {
    return std::ranges::all_of(recorded.row(t), [](double x) { return x == 0; }) &&
           std::ranges::any_of(right.row(t), [](double x) { return x != 0; });
  };
  const auto zero_column = [&](std::int64_t c) {
    const auto at = static_cast<std::size_t>(c);
    bool differs = false;
    for (std::int64_t t = 0; t < recorded.rows(); ++t) {
      if (recorded.row(t)[at] != 0) return false;
      differs = differs || right.row(t)[at] != 0;
    }
    return differs;
  };
  const auto propose = [&](std::int64_t whole, const auto& is_zero, const char* what, bool rows) {
    std::int64_t first = whole;
    while (first > 0 && is_zero(first - 1)) --first;
    // A quarter or more is another mistake than a tail.
    if (first == whole || 4 * (whole - first) > whole) return;
    std::int64_t tile = 0;
    for (const std::int64_t size : kTiles) tile = first % size == 0 ? size : tile;
    if (tile == 0) return;
    PushOutput(
        site, node, "kernel.shape", first,
        fmt::format("{} from {} on, the {} past the last whole tile (of {} or a part of it), are zero", what, first,
                    whole - first, tile),
        "handle the tail of the outer loop",
        [first, rows](std::span<const Value* const>, Value& value) {
          for (std::int64_t t = 0; t < value.rows(); ++t) {
            if (rows && t < first) continue;
            std::ranges::fill(rows ? value.row(t) : value.row(t).subspan(static_cast<std::size_t>(first)), 0.0);
          }
        },
        1, out);
  };
  propose(recorded.cols(), zero_column, "channels", false);
  propose(recorded.rows(), zero_row, "tokens", true);
}

}  // namespace

void ProposeKernel(const SearchSite& site, std::vector<Hypothesis>& out) {
  const Node& node = *std::ranges::find(site.segment(), site.target().id, &Node::id);
  if (node.fault != nullptr) return;
  for (const Node& inner : site.segment()) {
    if (std::holds_alternative<SoftmaxOp>(inner.op) && inner.fault == nullptr) ProposeSoftmaxOverflow(site, inner, out);
  }
  if (IsScoreShaped(node) || std::holds_alternative<TopExpertsOp>(node.op)) return;
  const Value right = site.replay().Evaluate(node.id, Replay::Pass::kExact, site.base());
  if (right.shape != site.replay().recording().At(node.id).value.shape) return;
  ProposeInfinite(site, node, right, out);
  ProposeSaturated(site, node, right, out);
  ProposeUnwritten(site, node, right, out);
  if (const auto* norm = std::get_if<NormOp>(&node.op); norm != nullptr && norm->group == 0)
    ProposeNormOverflow(site, node, out);
  if (const auto* linear = std::get_if<LinearOp>(&node.op); linear != nullptr && linear->bits == BitLinear::kNone)
    ProposeInputTail(site, node, out);
}

}  // namespace paritrace
