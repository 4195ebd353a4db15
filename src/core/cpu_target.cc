#include "core/cpu_target.h"

#include <atomic>
#include <cstdlib>
#include <string_view>

namespace paritrace {
namespace {

CpuTarget TargetOfCpu() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512dq") != 0) return CpuTarget::kAvx512;
  if (__builtin_cpu_supports("avx2") != 0) return CpuTarget::kAvx2;
#endif
  return CpuTarget::kBaseline;
}

CpuTarget BestTarget() {
  static const CpuTarget best = [] {
    const char* asked = std::getenv("PARITRACE_TARGET");
    const bool scalar = asked != nullptr && std::string_view(asked) == "scalar";
    return scalar ? CpuTarget::kBaseline : TargetOfCpu();
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
  if (target && *target > TargetOfCpu()) return false;
  forced_target.store(target ? static_cast<int>(*target) : kNotForced);
  return true;
}

}  // namespace paritrace
