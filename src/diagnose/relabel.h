// Causes that only show when several sites, or the names of what was recorded, are looked at together.
#pragma once

#include <utility>
#include <vector>

#include "diagnose/diagnosis.h"

namespace paritrace {

using PlacedDefects = std::vector<std::pair<Defect, NodeId>>;  // in order of execution

// Scores without a mask and probabilities that are masked are one mistake: the softmax's sum runs over hidden keys.
void MergeMasksAfterSoftmax(PlacedDefects& defects);

// A layer that recorded a mixture where MODEL is dense, or the reverse, runs another schedule.
void NameOtherSchedules(const Recording& recording, PlacedDefects& defects);

}  // namespace paritrace
