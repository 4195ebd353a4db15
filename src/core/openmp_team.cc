#include "core/openmp_team.h"

#include <dlfcn.h>

namespace paritrace {

Team OpenMpTeam(const std::string& library, int threads) {
  // Never loads anything: a second runtime would be a second team beside the engine's.
  void* const handle = ::dlopen(library.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (handle == nullptr || threads < 2) return {};
  using Parallel = void (*)(void (*work)(void*), void* argument, unsigned threads, unsigned flags);
  const auto parallel = reinterpret_cast<Parallel>(::dlsym(handle, "GOMP_parallel"));
  if (parallel == nullptr) return {};
  // The handle is kept: a library with threads is never unloaded.
  return [parallel, threads](void (*work)(void*), void* argument) {
    parallel(work, argument, static_cast<unsigned>(threads), 0);
  };
}

}  // namespace paritrace
