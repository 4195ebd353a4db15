// Mistakes of the token embedding: its scale, and which row is taken.
#include <cmath>

#include <fmt/format.h>

#include "diagnose/hypothesis.h"
#include "graph/requantise.h"

namespace paritrace {

void ProposeEmbed(const SearchSite& site, std::vector<Hypothesis>& out) {
  for (const Node& node : site.segment()) {
    const auto* right = std::get_if<EmbedOp>(&node.op);
    if (right == nullptr) continue;
    const auto with = [&](EmbedOp op) {
      Node changed = node;
      changed.op = op;
      return site.With(changed);
    };
    if (node.id == site.target().id || site.target().site == "layers.0.in") {
      std::vector<double> factors = NiceNumbers(site.BestFactor(site.base()) * right->scale);
      factors.insert(factors.begin(), {1.0, std::sqrt(static_cast<double>(site.graph().hidden))});
      for (const double factor : factors) {
        if (std::fabs(factor / right->scale - 1) < 1e-6) continue;
        out.push_back({.cause = "embed.scale",
                       .edit = with({.scale = factor}),
                       .expected = right->scale,
                       .found = factor,
                       .statement = fmt::format("embeddings are multiplied by {:g} where the model has {:g}", factor,
                                                right->scale),
                       .fix = fmt::format("multiply by {:g}", right->scale),
                       .parameters = 1});
      }
    }
    const Weight& table = site.graph().weights[static_cast<std::size_t>(node.weight)];
    for (const DType type : kRequantisable) {
      if (!IsBlockQuantised(table.tensor.dtype) && type != table.tensor.dtype) {
        out.push_back(QuantisedWeights(table, type, with({.scale = right->scale, .quantised = type})));
      }
    }
    for (const std::int64_t offset : {1, -1, 2, -2}) {
      out.push_back({.cause = "embed.row_offset",
                     .edit = with({.scale = right->scale, .row_offset = offset}),
                     .expected = 0,
                     .found = offset,
                     .statement = fmt::format("row {:+} of the embedding table is taken for each token", offset),
                     .fix = "look for a padding row or an offset in the vocabulary"});
    }
  }
}

}  // namespace paritrace
