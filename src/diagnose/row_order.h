// In which order an engine keeps the rows of q and k. llama.cpp's `llama` architecture stores each head's rows interleaved,
// HF half-split; recorded q and k of the two differ by that permutation, and that is right.
#pragma once

#include <string>

#include "diagnose/recording.h"

namespace paritrace {

// Brings q, k and their rotated twins into the graph's order if the recorded values fit only then. Decided once, from the
// projection itself, before any rotation: a wrong rotation then still shows.
// Returns a remark for the report, "" if nothing was reordered.
std::string AlignRowOrder(const Graph& graph, Recording& recording);

}  // namespace paritrace
