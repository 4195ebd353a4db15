// The threads of an engine that computes with OpenMP. They wait awake for a while after each of its loops: work that is handed
// to them begins at once, where one of our own threads would first have to be woken, and then share a core with them.
#pragma once

#include <string>

#include "core/team.h"

namespace paritrace {

// library  file of a libgomp that this process has loaded already
// threads  as many as the engine uses: asking for another number would have the library take its team down
// Empty where it is not loaded, or is another library. To be run on the engine's own thread: each thread has its own team.
// Source: libgomp's ABI, GOMP_parallel, which g++ and clang++ emit calls of.
[[nodiscard]] Team OpenMpTeam(const std::string& library, int threads);

}  // namespace paritrace
