// Mistakes of a product that is split over ranks: a sum without some of its shares, shards exchanged, a bias that every rank adds.
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "core/decode.h"
#include "diagnose/hypothesis.h"

namespace paritrace {
namespace {

constexpr std::array kRanks = {2, 4, 8};
// Each hypothesis is a product of its own: where the matrix is far from the recorded value, only small ones are tried.
constexpr double kMostProducts = 1 << 24;

// A few outputs of a recorded product, from each pair of an eighth of the weight's inputs and an eighth of the input: what any
// order of shares would give them, without a product for each.
class ShareScreen {
 public:
  ShareScreen(const SearchSite& site, const Node& node) {
    const Weight& weight = site.graph().weights[static_cast<std::size_t>(node.weight)];
    const std::int64_t rows = weight.tensor.shape[0], in = weight.tensor.shape[1];
    const LinearOp& op = std::get<LinearOp>(node.op);
    known_ = node.id == site.target().id && in % kParts == 0 && !op.transposed && op.row_order == RowOrder::kAsStored;
    if (!known_) return;
    const RecordedSite& recorded = site.replay().recording().At(node.id);
    const Value& x = site.replay().Input(node.inputs[0]);
    std::vector<double> bias, w(static_cast<std::size_t>(in));
    if (node.bias != kAbsent) bias = DecodeAll(site.graph().weights[static_cast<std::size_t>(node.bias)].tensor);
    const std::int64_t width = in / kParts;
    for (std::int64_t r = 0; r < rows; r += std::max<std::int64_t>(rows / kRows, 1)) {
      DecodeF64(weight.tensor, r * in, in, w.data());
      for (std::int64_t t = 0; t < x.rows(); t += std::max<std::int64_t>(x.rows() / kTokens, 1)) {
        if (!recorded.token_known[static_cast<std::size_t>(t)]) continue;
        Output output;
        output.value = recorded.value.row(t)[static_cast<std::size_t>(r)] -
                       (bias.empty() ? 0.0 : op.bias_factor * bias[static_cast<std::size_t>(r)]);
        for (std::int64_t a = 0; a < kParts; ++a) {
          for (std::int64_t b = 0; b < kParts; ++b) {
            double sum = 0;
            for (std::int64_t i = 0; i < width; ++i)
              sum += w[static_cast<std::size_t>(a * width + i)] * x.row(t)[static_cast<std::size_t>(b * width + i)];
            output.products[static_cast<std::size_t>(a * kParts + b)] = sum * op.factor;
          }
        }
        if (std::isfinite(output.value)) outputs_.push_back(output);
      }
    }
    const std::vector<int> plain = {0};
    before_ = SquareLeft(plain);
  }

  // False if this order takes away too little of the error to be tried.
  [[nodiscard]] bool IsWorthTrying(const std::vector<int>& order) const {
    return !known_ || SquareLeft(order) < 0.5 * before_;
  }

 private:
  static constexpr std::int64_t kParts = 8, kRows = 48, kTokens = 4;
  struct Output {
    double value = 0;
    std::array<double, kParts * kParts> products{};
  };
  [[nodiscard]] double SquareLeft(const std::vector<int>& order) const {
    const std::size_t parts = kParts / order.size();  // eighths in a share
    double left = 0;
    for (const Output& output : outputs_) {
      double sum = 0;
      for (std::size_t share = 0; share < order.size(); ++share) {
        if (order[share] == kAbsent) continue;
        for (std::size_t i = 0; i < parts; ++i)
          sum += output.products[(share * parts + i) * kParts + static_cast<std::size_t>(order[share]) * parts + i];
      }
      left += (output.value - sum) * (output.value - sum);
    }
    return left;
  }

  bool known_ = false;
  std::vector<Output> outputs_;
  double before_ = 0;
};

Edit WithOp(const SearchSite& site, const Node& node, const auto& change) {
  Node changed = node;
  change(std::get<LinearOp>(changed.op));
  return site.With(changed);
}

std::vector<int> InOrder(int ranks) {
  std::vector<int> order(static_cast<std::size_t>(ranks));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

void ProposeShares(const SearchSite& site, const Node& node, const ShareScreen& screen, int ranks,
                   std::vector<Hypothesis>& out) {
  const auto propose = [&](std::vector<int> order, std::string found, std::string statement) {
    if (!screen.IsWorthTrying(order)) return;
    out.push_back({.cause = "dist.partial_sum",
                   .edit = WithOp(site, node, [&](LinearOp& op) { op.input_order = std::move(order); }),
                   .expected = fmt::format("the sum of {} shares", ranks),
                   .found = std::move(found),
                   .statement = std::move(statement),
                   .fix = "add up the shares of all ranks (all-reduce) before the result is used"});
  };
  for (int rank = 0; rank < ranks; ++rank) {
    std::vector<int> one(static_cast<std::size_t>(ranks), kAbsent), others = InOrder(ranks);
    one[static_cast<std::size_t>(rank)] = rank;
    others[static_cast<std::size_t>(rank)] = kAbsent;
    propose(
        one, fmt::format("share {} of {}", rank, ranks),
        fmt::format("the output is one share of the sum: that of inputs {}/{} to {}/{}", rank, ranks, rank + 1, ranks));
    if (ranks == 2) continue;
    propose(
        others, fmt::format("all but share {} of {}", rank, ranks),
        fmt::format("one share of the sum is missing: that of inputs {}/{} to {}/{}", rank, ranks, rank + 1, ranks));
  }
  if (node.bias == kAbsent) return;
  out.push_back({.cause = "dist.partial_sum",
                 .edit = WithOp(site, node, [&](LinearOp& op) { op.bias_factor = ranks; }),
                 .expected = "the bias once",
                 .found = fmt::format("the bias {} times", ranks),
                 .statement = fmt::format("the bias is added {} times, as if by each of {} ranks", ranks, ranks),
                 .fix = "let one rank add the bias, or add it after the all-reduce"});
}

// Orders that real mistakes lead to: two shards exchanged, all rotated by one, all reversed.
std::vector<std::vector<int>> OtherOrders(int ranks) {
  std::vector<std::vector<int>> orders;
  const auto add = [&](std::vector<int> order) {
    if (order != InOrder(ranks) && std::ranges::find(orders, order) == orders.end()) orders.push_back(std::move(order));
  };
  for (int a = 0; a < ranks; ++a) {
    for (int b = a + 1; b < ranks; ++b) {
      std::vector<int> order = InOrder(ranks);
      std::swap(order[static_cast<std::size_t>(a)], order[static_cast<std::size_t>(b)]);
      if (ranks <= 4 || b == a + 1) add(order);
    }
  }
  std::vector<int> order = InOrder(ranks);
  std::ranges::rotate(order, order.begin() + 1);
  add(order);
  order = InOrder(ranks);
  std::ranges::rotate(order, order.end() - 1);
  add(order);
  order = InOrder(ranks);
  std::ranges::reverse(order);
  add(order);
  return orders;
}

Hypothesis Exchanged(Edit edit, const std::vector<int>& order, std::string_view side) {
  return {.cause = "dist.shard",
          .edit = std::move(edit),
          .expected = InOrder(static_cast<int>(order.size())),
          .found = order,
          .statement = fmt::format("the {} of this product are in {} shards, and stand in the order {}", side,
                                   order.size(), fmt::join(order, ", ")),
          .fix = "give each rank the shard of its own number, and gather them in that order"};
}

// Blocks of rows in another order: shards of ranks, or rows that a converter has moved. Which of the two no values tell where the
// blocks are heads, or where only some have moved.
void ProposeOutputOrder(const SearchSite& site, const Node& node, const std::vector<int>& order,
                        std::vector<Hypothesis>& out) {
  const Weight& weight = site.graph().weights[static_cast<std::size_t>(node.weight)];
  const std::int64_t width = weight.tensor.shape[0] / static_cast<std::int64_t>(order.size());
  const Edit edit = WithOp(site, node, [&](LinearOp& op) { op.output_order = order; });
  const bool are_heads =
      (weight.role == "attn.q" || weight.role == "attn.k" || weight.role == "attn.v") && width == site.graph().head_dim;
  bool some_stay = false;
  for (std::size_t i = 0; i < order.size(); ++i) some_stay |= order[i] == static_cast<int>(i);
  const Hypothesis moved = {
      .cause = "linear.permuted",
      .edit = edit,
      .expected = InOrder(static_cast<int>(order.size())),
      .found = order,
      .statement = fmt::format("the rows of {} stand in another order: its {} of {} rows each are those of {}",
                               weight.name, are_heads ? "heads" : "blocks", width, fmt::join(order, ", ")),
      .fix = "keep the rows in the file's order, or undo the permutation once"};
  if (are_heads) out.push_back(moved);
  out.push_back(Exchanged(edit, order, "outputs"));
  if (!are_heads && some_stay) out.push_back(moved);
}

// The order of recorded output blocks, each taken to be the nearest one of the replay; empty if that is no other order.
std::vector<int> RecordedOrder(const SearchSite& site, int ranks) {
  const RecordedSite& recorded = site.replay().recording().At(site.target().id);
  const Value& exact = site.replay().Exact(site.target().id);
  const std::int64_t width = exact.cols() / ranks;
  std::vector<int> order;
  for (int b = 0; b < ranks; ++b) {
    int best = 0;
    double least = INFINITY;
    for (int from = 0; from < ranks; ++from) {
      double distance = 0;
      for (std::int64_t t = 0; t < exact.rows(); ++t) {
        if (!recorded.token_known[static_cast<std::size_t>(t)]) continue;
        for (std::int64_t i = 0; i < width; ++i)
          distance += std::pow(recorded.value.row(t)[static_cast<std::size_t>(b * width + i)] -
                                   exact.row(t)[static_cast<std::size_t>(from * width + i)],
                               2);
      }
      if (distance < least) {
        least = distance;
        best = from;
      }
    }
    if (std::ranges::find(order, best) != order.end()) return {};
    order.push_back(best);
  }
  return order == InOrder(ranks) ? std::vector<int>() : order;
}

}  // namespace

void ProposeShards(const SearchSite& site, std::vector<Hypothesis>& out) {
  for (const Node& node : site.segment()) {
    const auto* linear = std::get_if<LinearOp>(&node.op);
    if (linear == nullptr || linear->bits != BitLinear::kNone) continue;
    const Shape& shape = site.graph().weights[static_cast<std::size_t>(node.weight)].tensor.shape;
    const auto products = static_cast<double>(shape[0]) * static_cast<double>(shape[1]) *
                          static_cast<double>(site.replay().recording().run.count());
    if (node.id != site.target().id && products > kMostProducts) continue;
    const ShareScreen screen(site, node);
    for (const int ranks : kRanks) {
      if (shape[1] % ranks == 0) {
        ProposeShares(site, node, screen, ranks, out);
        for (const std::vector<int>& order : OtherOrders(ranks)) {
          if (!screen.IsWorthTrying(order)) continue;
          out.push_back(Exchanged(WithOp(site, node, [&](LinearOp& op) { op.input_order = order; }), order, "inputs"));
        }
      }
      if (shape[0] % ranks != 0) continue;
      if (node.id == site.target().id) {
        const std::vector<int> order = RecordedOrder(site, ranks);
        if (!order.empty()) ProposeOutputOrder(site, node, order, out);
      } else if (ranks == 2) {
        out.push_back(Exchanged(WithOp(site, node,
                                       [&](LinearOp& op) {
                                         op.output_order = {1, 0};
                                       }),
                                {1, 0}, "outputs"));
      }
    }
  }
}

}  // namespace paritrace
