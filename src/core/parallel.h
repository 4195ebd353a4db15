// Loops over independent work on all cores. Results may not depend on the number of threads: callers write to
// disjoint places, or merge partial results in a fixed order afterwards.
#pragma once

#include <cstdint>
#include <functional>

namespace paritrace {

// Threads used: PARITRACE_THREADS, else the machine's cores.
[[nodiscard]] int ThreadCount();

// Calls body(begin, end) for disjoint chunks that cover [0, count), at most `grain` long each; chunk borders depend on
// count and grain only. The first exception thrown by a body is rethrown here once all threads have stopped.
void ParallelFor(std::int64_t count, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& body);

}  // namespace paritrace
