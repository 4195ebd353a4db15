// Which instruction set the hot loops may use. The binary itself is built for the baseline CPU; loops that gain from
// AVX2 exist twice, and both give the same bits: neither contracts nor reorders.
#pragma once

#include <optional>

#define PARITRACE_ALWAYS_INLINE inline __attribute__((always_inline))
#if defined(__x86_64__)
#define PARITRACE_TARGET_AVX2 __attribute__((target("avx2")))
#else
#define PARITRACE_TARGET_AVX2
#endif

namespace paritrace {

enum class CpuTarget { kBaseline, kAvx2 };

// The best this CPU has; PARITRACE_TARGET=scalar in the environment (read once) holds it down to kBaseline.
[[nodiscard]] CpuTarget ActiveCpuTarget();

// Tests run every kernel on every target: forces one, nullopt goes back. False, and nothing changes, where the CPU lacks it.
bool ForceCpuTarget(std::optional<CpuTarget> target);

}  // namespace paritrace
