#include "diagnose/name_product.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <fmt/format.h>

#include "compare/align.h"
#include "compare/relations.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

struct Pair {
  std::string_view one, other, cause, what;
};
constexpr std::array<Pair, 3> kPairs = {{{"attn.q", "attn.k", "attn.qk_swapped", "q and k"},
                                         {"attn.k", "attn.v", "attn.kv_swapped", "k and v"},
                                         {"mlp.gate", "mlp.up", "mlp.gate_up_swapped", "gate and up"}}};

double SquaredError(const Value& a, const Value& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.data.size(); ++i) sum += (a.data[i] - b.data[i]) * (a.data[i] - b.data[i]);
  return sum;
}

// The subject holds, within the floor, what the reference has at the product beside this one.
std::optional<NamedCause> Swapped(const Graph& graph, const Recording& reference, const Recording& subject,
                                  const Node& node, const SiteStats& stats) {
  for (const Pair& pair : kPairs) {
    for (const auto& [own, other] : {std::pair(pair.one, pair.other), std::pair(pair.other, pair.one)}) {
      if (!node.site.ends_with(fmt::format(".{}", own))) continue;
      const std::string beside = node.site.substr(0, node.site.size() - own.size()) + std::string(other);
      const Node* sibling = graph.Find(beside);
      if (sibling == nullptr || !reference.Has(sibling->id)) continue;
      const Value &held = subject.At(node.id).value, &theirs = reference.At(sibling->id).value;
      const double limit = SizeLimit(stats.all.count);
      if (held.shape != theirs.shape || !(SquaredError(held, theirs) <= limit * limit * stats.all.floor())) continue;
      return NamedCause{.id = std::string(pair.cause),
                        .confidence = 0.95,
                        .statement = fmt::format("{} holds what the reference has at {}: {} are exchanged", node.site,
                                                 beside, pair.what),
                        .fix = "correct the split of the fused weight, or the names it is loaded by"};
    }
  }
  return std::nullopt;
}

std::optional<Json> RelationOf(const Value& reference, const Value& subject, std::int64_t first_row) {
  if (reference.shape != subject.shape) return std::nullopt;
  const TensorView ours{"reference", DType::kF64, reference.shape, std::as_bytes(std::span(reference.data))};
  const TensorView theirs{"subject", DType::kF64, subject.shape, std::as_bytes(std::span(subject.data))};
  const PairLayout layout = ContiguousLayout(reference.rows(), reference.cols());
  return FindRelation({ours, theirs, layout, first_row});
}

NamedCause FromRelation(const Node& node, const Json& relation) {
  const std::string kind = relation["kind"], statement = relation["statement"];
  const bool embed = node.site == "embed";
  NamedCause cause{.id = "unknown",
                   .confidence = 0,
                   .statement = statement,
                   .fix = "give the weights (--model): only they tell which of them, or which op, is wrong"};
  if (kind == "scale") {
    cause.id = embed ? "embed.scale" : "linear.weight_scale";
    cause.confidence = 0.9;
    cause.expected = 1.0;
    cause.found = relation["factor"];
    cause.fix = embed ? "multiply the embedding by the model's own factor" : "apply the weight's scale once";
  } else if (kind == "channel_shift" && !embed) {
    cause.id = "linear.bias_missing";
    cause.confidence = 0.6;
    cause.fix = "add the model's bias, and no other";
  } else if (kind == "head_permutation" || kind == "channel_permutation" || kind == "row_order" ||
             kind == "head_layout") {
    cause.id = embed ? "unknown" : "linear.permuted";
    cause.confidence = embed ? 0 : 0.9;
    cause.fix = "undo the permutation of the weight's rows";
  } else if (kind == "rounding") {
    cause.id = "precision";
    cause.confidence = 0.9;
    cause.found = fmt::format("{} ({})", relation["to"].get<std::string>(), relation["how"].get<std::string>());
    cause.fix = "keep this result in the type that the reference keeps it in";
  }
  return cause;
}

}  // namespace

Finding NameProduct(const Graph& graph, const Recording& reference, const Recording& subject, const Node& node,
                    const SiteStats& stats, const Flags& flags) {
  Finding finding;
  if (auto swapped = Swapped(graph, reference, subject, node, stats)) {
    finding.causes.push_back(std::move(*swapped));
    return finding;
  }
  const RecordedSite &ours = reference.At(node.id), &theirs = subject.At(node.id);
  const auto some = [](const std::vector<std::int64_t>& flagged, const std::vector<ErrorSums>& groups) {
    const auto judged = std::ranges::count_if(groups, [](const ErrorSums& group) { return group.count > 0; });
    return flagged.size() < static_cast<std::size_t>(judged) ? flagged : std::vector<std::int64_t>();
  };
  finding.where = {
      some(flags.tokens, stats.by_token), some(flags.heads, stats.by_head), some(flags.channels, stats.by_channel), {}};
  const auto relation = ours.complete() && theirs.complete()
                            ? RelationOf(ours.value, theirs.value, flags.tokens.empty() ? 0 : flags.tokens.front())
                            : std::nullopt;
  if (relation) {
    finding.causes.push_back(FromRelation(node, *relation));
    if (finding.causes[0].id != "unknown") finding.where = {};
    if (finding.causes[0].confidence < 0.9 && finding.causes[0].confidence > 0)
      finding.alternatives.push_back({"unknown", 1 - finding.causes[0].confidence});
    return finding;
  }
  finding.causes.push_back(
      {.id = "unknown",
       .confidence = 0,
       .statement =
           fmt::format("its inputs agree with the reference's, its outputs differ by {:.2g} of their size, {:.3g} "
                       "times what the inputs and rounding explain: the weights or the op are wrong here",
                       std::sqrt(stats.introduced_nmse()), stats.all.ratio()),
       .fix = "give the weights (--model): only they tell which of them, or which op, is wrong"});
  return finding;
}

}  // namespace paritrace
