// One side of a diagnosis while it is judged: what diagnosis.cc does with a model, and without_weights.cc without one.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "diagnose/diagnosis.h"
#include "diagnose/policy.h"

namespace paritrace {

// Its replay, and all that was measured on it.
struct SideResult {
  Recording recording;
  ChosenArithmetic chosen;
  std::vector<std::pair<Defect, NodeId>> defects;
  std::vector<NoiseRow> noise;
  std::vector<Equivalence> equivalences;
  std::vector<RoutingFlip> routing;
  std::vector<std::string> remarks;
  std::vector<Edit> edits;  // what was named, to be built into the model
  bool all_named = true;    // false: a defect has no name, or only holds for some tokens, heads or channels
  std::string counterfactual;
  std::map<NodeId, SiteStats> healthy;
  std::optional<ViewLimits> view_limits;  // set where views are wanted
  std::vector<SiteView> views;
  std::int64_t values = 0, exact = 0, one_ulp = 0;
  double error = 0;
};

[[nodiscard]] NoiseRow RowOf(const SiteStats& stats, int step, const std::string& site);
[[nodiscard]] Defect DefectOf(const Replay& replay, const Node& node, const SiteStats& stats, const Finding& finding,
                              const NamedCause& cause, std::string_view side);

// Measures one recorded site, and names what is wrong with it.
void JudgeSite(const Replay& replay, const Node& node, std::string_view side_name, SideResult& side);

// What only shows when several sites are seen together: k alone without RoPE, a norm on the wrong side of a sum, shifts of all
// positions, which change nothing.
void NameTogether(const Graph& graph, SideResult& side);

// What was checked and found right, by family of ops, with the evidence.
[[nodiscard]] std::vector<Note> ClearedBy(const Graph& graph, const SideResult& side);

[[nodiscard]] Diagnosis ToDiagnosis(const Graph& graph, const Trace& subject, SideResult side);

}  // namespace paritrace
