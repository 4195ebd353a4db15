// Which experts a token goes to is a choice, not a number: two probabilities that lie closer together than the error which
// reached them may fall either way, and both are right. Everything that treats choices apart from values is here.
#pragma once

#include <cstdint>
#include <vector>

#include "diagnose/replay.h"
#include "diagnose/search.h"
#include "diagnose/site_stats.h"

namespace paritrace {

// A token that goes to other experts in the subject than in MODEL, run in f64 from the tokens on.
struct RoutingFlip {
  int step = 0, layer = 0;
  std::int64_t token = 0;
  std::vector<std::int64_t> reference, subject;  // ids, the most probable first
  double margin = 0;                             // by how much MODEL prefers its own choice, in probability
  double error = 0;  // of that difference, as it reached the subject's router and was made there
  bool benign = true;
};

// A recorded choice against the probabilities it was made from: count and exact are chosen experts; broken are those of tokens
// whose choice is further from the probabilities than the subject's arithmetic explains.
[[nodiscard]] SiteStats MeasureRouting(const Replay& replay, const Node& node, TokenRange range);

// True if recorded weights are those of the experts that the probabilities choose: where others were recorded, the mistake is in
// the choice alone.
[[nodiscard]] bool WeighsTheRightExperts(const Replay& replay, const Node& node);

// What explains the broken tokens of such a site.
[[nodiscard]] Finding ExplainRouting(const Replay& replay, const Node& node, const SiteStats& stats);

// The subject's flips at a node that chooses experts: as recorded, else as predicted.
[[nodiscard]] std::vector<RoutingFlip> FlipsOf(const Replay& replay, const Node& node);

// Where no choice was recorded and one is within noise, the replay cannot know how it fell: the one that leaves less at the next
// recorded site stands, in all passes alike. Writes it into `graph`, which must be the replay's; returns the first
// node written to, from which the replay must then be run again, or kAbsent.
[[nodiscard]] NodeId SettleRouting(const Replay& replay, Graph& graph);

}  // namespace paritrace
