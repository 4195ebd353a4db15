#include "diagnose/row_order.h"

#include <array>
#include <cmath>

#include "diagnose/replay.h"

namespace paritrace {
namespace {

constexpr std::array<std::string_view, 4> kReordered = {"attn.q", "attn.k", "attn.q_rope", "attn.k_rope"};

double DistanceTo(const Value& replayed, const RecordedSite& site, const Value& recorded) {
  double error = 0;
  for (std::int64_t t = 0; t < recorded.rows(); ++t) {
    if (!site.token_known[static_cast<std::size_t>(t)]) continue;
    for (std::size_t c = 0; c < recorded.row(t).size(); ++c) {
      const double e = recorded.row(t)[c] - replayed.row(t)[c];
      error += std::isfinite(e) ? e * e : 0;
    }
  }
  return error;
}

// The first recorded site that shows the order, the projections before their rotated twins.
const Node* FirstWitness(const Graph& graph, const Recording& recording) {
  for (const std::string_view role : kReordered) {
    for (int layer = 0; layer < graph.layers; ++layer) {
      const Node* node = graph.Find("layers." + std::to_string(layer) + "." + std::string(role));
      if (node != nullptr && recording.Has(node->id)) return node;
    }
  }
  return nullptr;
}

}  // namespace

std::string AlignRowOrder(const Graph& graph, Recording& recording) {
  if (graph.architecture != "llama" && graph.architecture != "mistral" && graph.architecture != "mixtral") return "";
  const Node* witness = FirstWitness(graph, recording);
  if (witness == nullptr) return "";
  Replay replay(graph, recording, *FindArithmetic("f64"));
  replay.Run({}, witness->id);
  const RecordedSite& site = recording.At(witness->id);
  Value reordered = site.value;
  const bool to_interleaved = graph.q_rows_interleaved;
  ReorderHeads(reordered, graph.head_dim, to_interleaved);
  const double as_is = DistanceTo(replay.Exact(witness->id), site, site.value);
  // The two orders are far apart on any real model; a factor of a hundred leaves room for a quantised engine's noise.
  if (!(DistanceTo(replay.Exact(witness->id), site, reordered) < 0.01 * as_is)) return "";
  for (const Node& node : graph.nodes) {
    for (const std::string_view role : kReordered) {
      if (node.layer != kAbsent && node.site.ends_with("." + std::string(role)) && recording.Has(node.id)) {
        ReorderHeads(recording.sites[static_cast<std::size_t>(node.id)]->value, graph.head_dim, to_interleaved);
      }
    }
  }
  return to_interleaved ? "q and k of the subject stand in half-split row order, MODEL's in interleaved order: "
                          "reordered before comparing"
                        : "q and k of the subject stand in interleaved row order, MODEL's in half-split order: "
                          "reordered before comparing";
}

}  // namespace paritrace
