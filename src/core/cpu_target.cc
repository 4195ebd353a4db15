#include "core/cpu_target.h"

#include <atomic>
#include <cstdlib>
#include <string_view>

namespace paritrace {
namespace {

bool CpuHasAvx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") != 0;
#else
  return false;
#endif
}

CpuTarget BestTarget() {
  static const CpuTarget best = [] {
    const char* asked = std::getenv("PARITRACE_TARGET");
    const bool scalar = asked != nullptr && std::string_view(asked) == "scalar";
    return CpuHasAvx2() && !scalar ? CpuTarget::kAvx2 : CpuTarget::kBaseline;
  }();
  return best;
}

constexpr int kNotForced = -1;
std::atomic<int> forced_target{kNotForced};

}  // namespace

CpuTarget ActiveCpuTarget() {
  const int forced = forced_target.load(std::memory_order_relaxed);
  return forced == kNotForced ? BestTarget() : static_cast<CpuTarget>(forced);
}

bool ForceCpuTarget(std::optional<CpuTarget> target) {
  if (target == CpuTarget::kAvx2 && !CpuHasAvx2()) return false;
  forced_target.store(target ? static_cast<int>(*target) : kNotForced);
  return true;
}

}  // namespace paritrace
