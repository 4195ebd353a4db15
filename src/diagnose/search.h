// Which known mistake explains a site? Proposes, ranks, and accepts only what brings the site back within noise.
#pragma once

#include <string>
#include <vector>

#include "diagnose/hypothesis.h"
#include "diagnose/verdict.h"

namespace paritrace {

struct NamedCause {
  std::string id;
  double confidence = 0;
  std::string statement, fix;
  nlohmann::ordered_json expected, found;
};

struct Alternative {
  std::string id;
  double confidence = 0;
};

struct Finding {
  std::vector<NamedCause>
      causes;  // one, or two where a pair of mistakes meets in one op; {"unknown"} where nothing fits
  std::vector<Alternative> alternatives;
  Scope where;
  Edit edit;  // what to apply to the model to get the subject; empty for unknown
};

// For a site that the size test flagged.
[[nodiscard]] Finding ExplainFlagged(const Replay& replay, NodeId target, const SiteStats& stats, const Flags& flags);

// For a site within its noise that is not explained to the last bit: a mistake hidden below the noise, or nothing.
// An empty list of causes: nothing.
[[nodiscard]] Finding ExplainQuiet(const Replay& replay, NodeId target, const SiteStats& stats);

}  // namespace paritrace
