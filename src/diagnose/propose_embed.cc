// Mistakes of the token embedding: its scale, and which row is taken.
#include <cmath>

#include <fmt/format.h>

#include "diagnose/hypothesis.h"
#include "graph/requantise.h"

namespace paritrace {

namespace {

void ProposeScale(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const EmbedOp right = std::get<EmbedOp>(node.op);
  const double root = std::sqrt(static_cast<double>(site.graph().hidden));
  const bool seen = node.id == site.target().id || site.target().site == "layers.0.in";
  const auto with_scale = [&](double factor) {
    Node changed = node;
    std::get<EmbedOp>(changed.op).scale = factor;
    return site.With(changed);
  };
  // Behind the first norm only the layers' share of the stream tells the scale: there it is no factor of what was recorded.
  std::vector<double> factors = NiceNumbers(seen ? site.BestFactor(site.base()) * right.scale
                                                 : site.FitLog(right.scale / 1000, right.scale * 1000, 24, with_scale));
  factors.insert(factors.begin(), {1.0, root, 1 / root});
  for (const double factor : factors) {
    if (std::fabs(factor / right.scale - 1) < 1e-6) continue;
    out.push_back(
        {.cause = "embed.scale",
         .edit = with_scale(factor),
         .expected = right.scale,
         .found = factor,
         .statement = fmt::format("embeddings are multiplied by {:g} where the model has {:g}", factor, right.scale),
         .fix = fmt::format("multiply by {:g}", right.scale),
         .parameters = 1});
  }
}

void ProposeQuantised(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const Weight& table = site.graph().weights[static_cast<std::size_t>(node.weight)];
  if (IsBlockQuantised(table.tensor.dtype)) return;
  for (const DType type : kRequantisable) {
    if (type == table.tensor.dtype) continue;
    Node changed = node;
    std::get<EmbedOp>(changed.op).quantised = type;
    out.push_back(QuantisedWeights(table, type, site.With(changed)));
  }
}

void ProposeRow(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const EmbedIndex index = std::get<EmbedOp>(node.op).index;
  const std::int64_t rows = site.graph().weights[static_cast<std::size_t>(node.weight)].tensor.shape[0];
  const std::int64_t last = rows - site.replay().recording().run.count();
  for (const std::int64_t offset : {1, -1, 2, -2}) {
    if (index == EmbedIndex::kType && (offset < 0 || offset >= rows)) continue;
    if (index == EmbedIndex::kPosition && offset > last) continue;
    Node changed = node;
    std::get<EmbedOp>(changed.op).row_offset = offset;
    const char* what = index == EmbedIndex::kToken      ? "the embedding table is taken for each token"
                       : index == EmbedIndex::kPosition ? "the position table is taken for each position"
                                                        : "the token types is taken where a single text has type 0";
    out.push_back({.cause = "embed.row_offset",
                   .edit = site.With(changed),
                   .expected = 0,
                   .found = offset,
                   .statement = fmt::format("row {:+} of {}", offset, what),
                   .fix = index == EmbedIndex::kToken      ? "look for a padding row or an offset in the vocabulary"
                          : index == EmbedIndex::kPosition ? "number the positions as the model does, from 0"
                                                           : "pass type 0 for every token of a single text"});
  }
}

// Positions or types that are left out of the sum.
void ProposeMissingTerm(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    const auto* term = std::get_if<EmbedOp>(&site.graph().nodes[static_cast<std::size_t>(node.inputs[i])].op);
    if (term == nullptr || term->index == EmbedIndex::kToken) continue;
    const bool position = term->index == EmbedIndex::kPosition;
    Node changed = node;
    changed.inputs.erase(changed.inputs.begin() + static_cast<std::ptrdiff_t>(i));
    out.push_back(
        {.cause = position ? "embed.position_missing" : "embed.type_missing",
         .edit = site.With(changed),
         .statement = position ? "the position embeddings are not added" : "the token type embeddings are not added",
         .fix = position ? "add the row of each position" : "add row 0 of the token types"});
  }
}

}  // namespace

void ProposeEmbed(const SearchSite& site, std::vector<Hypothesis>& out) {
  for (const Node& node : site.segment()) {
    if (node.site == "embed" && std::holds_alternative<AddOp>(node.op)) ProposeMissingTerm(site, node, out);
    const auto* right = std::get_if<EmbedOp>(&node.op);
    if (right == nullptr) continue;
    if (right->index == EmbedIndex::kToken) ProposeScale(site, node, out);
    ProposeQuantised(site, node, out);
    ProposeRow(site, node, out);
  }
}

}  // namespace paritrace
