#include "compare/weights_cleared.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "compare/relations.h"

namespace paritrace {
namespace {

bool IsFine(const WeightPair& pair) {
  return pair.stats && (pair.status == SiteStatus::kIdentical || pair.status == SiteStatus::kWithinNoise);
}

// "rms 0.046, 20 times too small" is no finding where the published values are the same.
void ClearNorms(const std::vector<WeightPair>& pairs, std::vector<WeightsResult::Cleared>& cleared) {
  double least = INFINITY, most = 0;
  std::size_t count = 0;
  std::string named;
  for (const WeightPair& pair : pairs) {
    if (!IsNormRole(pair.role) || !pair.stats) continue;
    if (!IsFine(pair)) return;
    ++count;
    least = std::min(least, pair.stats->rms_subject);
    most = std::max(most, pair.stats->rms_subject);
    const std::string name = NameFactor(pair.stats->rms_subject, 0.01, {pair.shape.back()});
    if (named.empty() && name.find("sqrt") != std::string::npos)
      named = fmt::format("; {}'s is near {}, and so is the reference's", pair.key, name);
  }
  if (count == 0) return;
  cleared.push_back({"norm weights", fmt::format("rms {:.4g} to {:.4g} in {} norms, which is what the reference has{}",
                                                 least, most, count, named)});
}

void ClearRounding(const std::vector<WeightPair>& pairs, std::vector<WeightsResult::Cleared>& cleared) {
  struct Of {
    std::size_t count = 0, exact = 0;
    double least = INFINITY, most = 0;
    bool bound = true;
  };
  std::map<std::pair<DType, DType>, Of> types;
  for (const WeightPair& pair : pairs) {
    if (!IsFine(pair)) continue;
    Of& of = types[{pair.reference_type, pair.subject_type}];
    ++of.count;
    of.exact += pair.status == SiteStatus::kIdentical;
    of.bound &= pair.stats->has_bound;
    if (pair.status == SiteStatus::kIdentical || !(pair.stats->expected_rms > 0)) continue;
    const double ratio = pair.stats->rms_error / pair.stats->expected_rms;
    of.least = std::min(of.least, ratio);
    of.most = std::max(of.most, ratio);
  }
  for (const auto& [key, of] : types) {
    const auto& [a, b] = key;
    const std::string what = a == b ? fmt::format("{} weights", Name(b)) : fmt::format("{} for {}", Name(b), Name(a));
    std::string evidence = fmt::format("{} tensors", of.count);
    if (of.exact > 0) evidence += fmt::format(", {} with equal values", of.exact);
    if (of.exact < of.count && of.bound) {
      evidence +=
          fmt::format(", error {:.2f} to {:.2f} of what rounding to the steps leaves (1 on average, 1.73 at most)",
                      of.least, of.most);
    } else if (of.exact < of.count) {
      evidence += ", a type without a bound: only their correlation speaks";
    }
    cleared.push_back({what, evidence});
  }
}

void ClearOrder(const std::vector<WeightPair>& pairs, std::vector<WeightsResult::Cleared>& cleared) {
  std::size_t reordered = 0, plus_one = 0;
  for (const WeightPair& pair : pairs) {
    reordered += pair.reordered && IsFine(pair);
    plus_one += pair.plus_one && IsFine(pair);
  }
  if (reordered > 0) {
    cleared.push_back(
        {"rows of q and k",
         fmt::format("{} tensors: interleaved on one side and half-split on the other, as the formats keep them",
                     reordered)});
  }
  if (plus_one > 0) {
    cleared.push_back(
        {"norms plus one", fmt::format("{} norms: a GGUF of Gemma holds 1 + w where the folder holds w", plus_one)});
  }
}

}  // namespace

std::vector<WeightsResult::Cleared> ClearedByWeights(const std::vector<WeightPair>& pairs) {
  std::vector<WeightsResult::Cleared> cleared;
  ClearNorms(pairs, cleared);
  ClearRounding(pairs, cleared);
  ClearOrder(pairs, cleared);
  return cleared;
}

}  // namespace paritrace
