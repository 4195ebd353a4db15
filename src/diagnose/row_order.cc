#include "diagnose/row_order.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include <fmt/format.h>

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

// The first recorded sites that show the order: q and k of one layer, the projections rather than their rotated twins.
std::vector<const Node*> Witnesses(const Graph& graph, const Recording& recording) {
  for (const bool rotated : {false, true}) {
    for (int layer = 0; layer < graph.layers; ++layer) {
      std::vector<const Node*> found;
      for (const char* which : {"q", "k"}) {
        const Node* node = graph.Find(fmt::format("layers.{}.attn.{}{}", layer, which, rotated ? "_rope" : ""));
        if (node != nullptr && recording.Has(node->id)) found.push_back(node);
      }
      if (!found.empty()) return found;
    }
  }
  return {};
}

}  // namespace

std::string AlignRowOrder(const Graph& graph, Recording& recording) {
  if (graph.architecture != "llama" && graph.architecture != "mistral" && graph.architecture != "mixtral") return "";
  const std::vector<const Node*> witnesses = Witnesses(graph, recording);
  if (witnesses.empty()) return "";
  Replay replay(graph, recording, *FindArithmetic("f64"), /*with_free=*/false);
  replay.Run({}, std::max(witnesses.front()->id, witnesses.back()->id));
  const bool to_interleaved = graph.q_rows_interleaved;
  // The two orders are far apart on any real model; a factor of a hundred leaves room for a quantised engine's noise. Where
  // q and k contradict each other, one of them is permuted by mistake, and that is for the diagnosis to say.
  constexpr double kDecisive = 0.01;
  bool wanted = false, refused = false;
  for (const Node* witness : witnesses) {
    const RecordedSite& site = recording.At(witness->id);
    Value reordered = site.value;
    ReorderHeads(reordered, graph.head_dim, to_interleaved);
    const double as_is = DistanceTo(replay.Exact(witness->id), site, site.value),
                 changed = DistanceTo(replay.Exact(witness->id), site, reordered);
    wanted |= changed < kDecisive * as_is;
    refused |= as_is < kDecisive * changed;
  }
  if (!wanted || refused) return "";
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
