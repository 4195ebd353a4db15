// Mistakes of the softmax over the scores: its axis, its sum, and keys without a value (sinks) that take part in it.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "diagnose/hypothesis.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

Hypothesis Softmax(const SearchSite& site, const Node& node, const SoftmaxOp& op, std::string statement,
                   std::string found) {
  Node changed = node;
  changed.op = op;
  return {.cause = "attn.softmax",
          .edit = site.With(changed),
          .expected = "over the visible keys, divided by their sum",
          .found = std::move(found),
          .statement = std::move(statement),
          .fix = "mask the scores first, then take the softmax over the keys of each query and head"};
}

void ProposeForm(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  out.push_back(Softmax(site, node, {.axis = SoftmaxAxis::kQueries},
                        "the softmax runs over the queries, not over the keys", "over the queries"));
  out.push_back(Softmax(site, node, {.axis = SoftmaxAxis::kHeads}, "the softmax runs over the heads, not over the keys",
                        "over the heads"));
  out.push_back(
      Softmax(site, node, {.divided = false}, "the exponentials are not divided by their sum", "not divided"));
}

// Hidden keys in the sum: the mask is applied to the probabilities.
void ProposeMaskAfter(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const Node& scores = site.graph().nodes[static_cast<std::size_t>(node.inputs[0])];
  const auto* right = std::get_if<ScoresOp>(&scores.op);
  if (right == nullptr || (!right->causal && right->window == 0)) return;
  Node probs = node, open = scores;
  std::get<SoftmaxOp>(probs.op).mask_after = *right;
  std::get<ScoresOp>(open.op).causal = false;
  std::get<ScoresOp>(open.op).window = 0;
  Hypothesis hypothesis = Softmax(site, node, {}, "", "over hidden keys as well");
  hypothesis.statement =
      "hidden keys take part in the softmax's sum: the mask is applied to the probabilities, not to the "
      "scores";
  hypothesis.edit =
      site.replay().recording().Has(scores.id) ? site.With(probs) : site.With(std::vector<Node>{open, probs});
  out.push_back(std::move(hypothesis));
}

void ProposeTemperature(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  if (node.id != site.target().id) return;  // with the scores in between, a factor is one of theirs
  if (!site.replay().recording().Has(node.inputs[0])) return;
  const auto with = [&](double factor) {
    Node changed = node;
    std::get<SoftmaxOp>(changed.op).temperature = factor;
    return site.With(changed);
  };
  for (const double factor : NiceNumbers(site.FitLog(0.01, 100, 40, with))) {
    if (std::fabs(factor - 1) < 1e-6) continue;
    Hypothesis hypothesis =
        Softmax(site, node, {}, fmt::format("the softmax multiplies its scores by {:g}", factor), "");
    hypothesis.edit = with(factor);
    hypothesis.expected = 1.0;
    hypothesis.found = factor;
    hypothesis.parameters = 1;
    out.push_back(std::move(hypothesis));
  }
}

// The sink of each head that explains how far the recorded probabilities of its rows fall short of one; empty if none does.
std::vector<double> FittedSinks(const SearchSite& site, const Node& node) {
  const RecordedSite& recorded = site.replay().recording().At(node.id);
  const Value& scores = site.replay().Input(node.inputs[0]);
  const std::int64_t heads = recorded.value.shape[0], tokens = recorded.value.shape[1];
  const Rounding storage = StorageOf(node, site.replay().arithmetic());
  constexpr double kSigmas = 5;
  std::vector<double> sinks;
  for (std::int64_t h = 0; h < heads; ++h) {
    double fit = 0, weight = 0;
    for (std::int64_t t = 0; t < tokens; ++t) {
      if (!recorded.token_known[static_cast<std::size_t>(t)]) continue;
      const auto row = scores.row(h * tokens + t), probs = recorded.value.row(h * tokens + t);
      double largest = -INFINITY, total = 0, sum = 0, rounding = 0;
      for (const double score : row) largest = std::max(largest, score);
      for (const double score : row) total += std::isinf(score) ? 0 : std::exp(score - largest);
      for (const double p : probs) {
        sum += p;
        rounding += std::pow(HalfUlp(storage, p), 2) / 3;
      }
      // What a sum is short of one by less than this is lost in the rounding of its terms, and in that of the sum itself.
      const double lost = kSigmas * std::sqrt(rounding) + 16 * HalfUlp(Rounding::kF32, 1);
      if (!(sum > lost && sum < 1 - lost)) continue;
      const double sure =
          std::pow(sum * (1 - sum), 2);  // the inverse square of what an error of the sum does to the fit
      fit += sure * (largest + std::log(total * (1 - sum) / sum));
      weight += sure;
    }
    if (!std::isfinite(fit)) return {};
    sinks.push_back(weight > 0 ? fit / weight : -INFINITY);  // too small to be seen in any row
  }
  return sinks;
}

void ProposeSinks(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const Node& scores = site.graph().nodes[static_cast<std::size_t>(node.inputs[0])];
  const auto* op = std::get_if<ScoresOp>(&scores.op);
  if (op == nullptr) return;
  const auto propose = [&](std::vector<double> sinks, Json found, int parameters, std::string statement) {
    Node changed = node;
    std::get<SoftmaxOp>(changed.op).sinks = std::move(sinks);
    out.push_back({.cause = "attn.sink",
                   .edit = site.With(changed),
                   .expected = nullptr,
                   .found = std::move(found),
                   .statement = std::move(statement),
                   .fix = "leave the sink out of the softmax: this model has none",
                   .parameters = parameters});
  };
  const auto heads = static_cast<std::size_t>(op->heads);
  propose(std::vector<double>(heads, 0.0), 0.0, 0,
          "a key without a value, of score 0, takes part in the softmax: the probabilities do not sum to one");
  if (node.id == site.target().id) {
    const std::vector<double> sinks = FittedSinks(site, node);
    if (std::ranges::none_of(sinks, [](double sink) { return std::isfinite(sink); })) return;
    std::vector<double> seen = sinks;  // of some heads no row shows it
    std::erase_if(seen, [](double sink) { return !std::isfinite(sink); });
    const auto [low, high] = std::ranges::minmax_element(seen);
    const std::string heads_seen =
        seen.size() == sinks.size() ? "each head" : fmt::format("{} of {} heads", seen.size(), sinks.size());
    propose(sinks, Json(sinks), 2,
            fmt::format("a sink takes part in the softmax of {}, with scores from {:.4g} to {:.4g}: the "
                        "probabilities do not sum to one",
                        heads_seen, *low, *high));
    return;
  }
  const auto with = [&](double weight) {
    Node changed = node;
    std::get<SoftmaxOp>(changed.op).sinks.assign(heads, std::log(weight));
    return site.With(changed);
  };
  for (const double score : NiceNumbers(std::log(site.FitLog(1e-4, 1e4, 24, with))))
    propose(std::vector<double>(heads, score), score, 2,
            fmt::format("a sink of score {:g} takes part in the softmax: the probabilities do not sum to one", score));
}

}  // namespace

void ProposeSoftmax(const SearchSite& site, std::vector<Hypothesis>& out) {
  for (const Node& node : site.segment()) {
    if (!std::holds_alternative<SoftmaxOp>(node.op)) continue;
    ProposeForm(site, node, out);
    ProposeMaskAfter(site, node, out);
    ProposeTemperature(site, node, out);
    ProposeSinks(site, node, out);
  }
}

}  // namespace paritrace
