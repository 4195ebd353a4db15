// How the error between two traces grows over layers and over positions, and whether that is a trend or chance.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "compare/diff.h"

namespace paritrace {

struct TrendPoint {
  std::int64_t at = 0;  // layer or absolute position
  double error = 0;     // rms(difference) / rms(reference)
};

// A straight line through log10(error). Points without an error (equal to the bit) have no logarithm and are left out.
struct Trend {
  std::string site;  // where the errors were taken: "layers.*.out", "logits"
  std::vector<TrendPoint> points;
  std::int64_t exact = 0;  // points left out
  double slope = 0;        // decades for one layer or position
  double p_value = 1;      // chance that shuffled errors give a slope as steep, either way
  bool enough = false;     // false: with so few points even a perfect line could be chance (p >= 0.05)
  [[nodiscard]] bool IsTrend() const { return enough && p_value < 0.05; }
};

struct GrowthResult {
  DiffResult diff;
  Trend by_layer, by_position;
};

// By layer: at the residual stream that leaves each layer (else what most layers have of mlp.residual, mlp.out,
// attn.residual, attn.out), over all steps and positions. By position: at logits, else final_norm, else the last layer's.
[[nodiscard]] GrowthResult CompareGrowth(const Trace& reference, const Trace& subject, const DiffOptions& options = {});

// Fits slope and p-value to trend.points. The p-value is a permutation test's: exact for at most 7 points, else from 9999
// shuffles of a fixed seed, so that it is the same everywhere.
void FitTrend(Trend& trend);

}  // namespace paritrace
