// A known mistake, as an edit of the graph: what the subject would have computed if it made that mistake.
// Each propose_*.cc holds one family; adding a cause is adding an entry to one of them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "diagnose/replay.h"
#include "diagnose/twins.h"

namespace paritrace {

struct Hypothesis {
  std::string cause;  // id of docs/causes.md
  Edit edit;
  nlohmann::ordered_json expected, found;  // null where the cause has no parameter
  std::string statement;                   // what the subject does, in a sentence
  std::string fix;                         // what to change, in a sentence
  std::vector<std::int64_t> experts = {};  // those it is limited to; empty: all
  std::vector<std::int64_t> tokens = {};   // those it touches, ascending; empty: all
  bool whole = false;                      // of what all values share: it explains the whole site or nothing
  int parameters = 0;         // free parameters fitted: of two that explain equally well the one with fewer stands
  bool approximates = false;  // a curve close to another: stands only where it leaves far less than that
  bool last_resort = false;   // a description of what was recorded: stands only where nothing else explains it
  bool sharp = false;         // a matter of rounding: stands only if the values equal it to the bit
};

// Tokens, heads and channels that something is limited to, ascending; empty: all.
struct Scope {
  std::vector<std::int64_t> tokens, heads, channels;
  std::vector<std::int64_t> experts;  // said of a mixture as a whole; no values are singled out by it
  [[nodiscard]] bool everything() const { return tokens.empty() && heads.empty() && channels.empty(); }
};

// Calls visit(flat index) for every value of a node within the scope. Scores have no channels.
void ForEachWithin(const Graph& graph, const Node& node, const Value& value, const Scope& scope,
                   const std::function<void(std::size_t)>& visit);

// The site under question, and what a proposer may ask about it.
class SearchSite {
 public:
  // scope: the values that count, of those recorded. `base` is applied before any hypothesis (pairs of mistakes).
  // twins: every edit changes a leader and its twins alike, and segment() holds the leaders alone.
  SearchSite(const Replay& replay, NodeId target, Scope scope, Edit base = {}, Twins twins = {});

  [[nodiscard]] const Replay& replay() const { return replay_; }
  [[nodiscard]] const Graph& graph() const { return replay_.graph(); }
  [[nodiscard]] const Node& target() const { return replay_.graph().nodes[static_cast<std::size_t>(target_)]; }
  [[nodiscard]] const Edit& base() const { return base_; }
  // Nodes that the hypothesis may edit, with `base` applied: those between the target and the recorded values before it.
  [[nodiscard]] const std::vector<Node>& segment() const { return segment_; }

  // Root of sum (recorded - replayed with the edit)^2 over sum recorded^2, over the values that count. In f64 it changes
  // smoothly with a parameter, which fits need; as predicted in the subject's arithmetic it ranks mistakes near the noise.
  [[nodiscard]] double Residual(const Edit& edit, Replay::Pass pass = Replay::Pass::kExact) const;

  // The factor that fits recorded = factor * replay best, over the values that count.
  [[nodiscard]] double BestFactor(const Edit& edit) const;

  // `base` with one more node replaced, and its twins.
  [[nodiscard]] Edit With(const Node& node) const;
  [[nodiscard]] Edit With(const std::vector<Node>& nodes) const;

  // Smallest residual over x in [low, high], golden section after a scan of `steps` points, both on log(x).
  [[nodiscard]] double FitLog(double low, double high, int steps, const std::function<Edit(double)>& edit) const;

 private:
  const Replay& replay_;
  NodeId target_;
  std::vector<std::size_t> counted_;  // flat indices
  Edit base_;
  Twins twins_;
  std::vector<Node> segment_;
};

// Numbers near `value` that a person would have written: rounded to 1, 2, 3 and 5 digits, and itself last.
[[nodiscard]] std::vector<double> NiceNumbers(double value);

// The hypothesis that a weight was kept as `type` where MODEL's file has another one.
[[nodiscard]] Hypothesis QuantisedWeights(const Weight& weight, DType type, Edit edit);

using Proposer = void (*)(const SearchSite&, std::vector<Hypothesis>&);
void ProposeRope(const SearchSite& site, std::vector<Hypothesis>& out);
void ProposeNorm(const SearchSite& site, std::vector<Hypothesis>& out);
void ProposeAttention(const SearchSite& site, std::vector<Hypothesis>& out);
void ProposeLinear(const SearchSite& site, std::vector<Hypothesis>& out);
void ProposeMlp(const SearchSite& site, std::vector<Hypothesis>& out);
void ProposeResidual(const SearchSite& site, std::vector<Hypothesis>& out);
void ProposeEmbed(const SearchSite& site, std::vector<Hypothesis>& out);
void ProposeExperts(const SearchSite& site, std::vector<Hypothesis>& out);
void ProposeBitNet(const SearchSite& site, std::vector<Hypothesis>& out);
void ProposeOrder(const SearchSite& site, std::vector<Hypothesis>& out);
void ProposeHead(const SearchSite& site, std::vector<Hypothesis>& out);
void ProposeQuant(const SearchSite& site, std::vector<Hypothesis>& out);
void ProposeQuantInput(const SearchSite& site, std::vector<Hypothesis>& out);
void ProposeKernel(const SearchSite& site, std::vector<Hypothesis>& out);
void ProposeCurve(const SearchSite& site, std::vector<Hypothesis>& out);
void ProposeQuietCurve(const SearchSite& site, std::vector<Hypothesis>& out);  // known curves alone
void ProposeQuietInput(const SearchSite& site, std::vector<Hypothesis>& out);  // coarser activations alone
void ProposePool(const SearchSite& site, std::vector<Hypothesis>& out);
void ProposeSoftmax(const SearchSite& site, std::vector<Hypothesis>& out);
void ProposePosition(const SearchSite& site, std::vector<Hypothesis>& out);
void ProposeCache(const SearchSite& site, std::vector<Hypothesis>& out);
void ProposeShards(const SearchSite& site, std::vector<Hypothesis>& out);
void ProposeUnloaded(const SearchSite& site, std::vector<Hypothesis>& out);
void ProposePrecision(const SearchSite& site, std::vector<Hypothesis>& out);

}  // namespace paritrace
