// Which instruction set the hot loops may use. The binary itself is built for the baseline CPU; loops that gain from
// AVX2, or from AVX-512, exist for those too, and all give the same bits: none contracts nor reorders.
#pragma once

#include <optional>

#define PARITRACE_ALWAYS_INLINE inline __attribute__((always_inline))
#if defined(__x86_64__)
#define PARITRACE_TARGET_AVX2 __attribute__((target("avx2")))
#else
#define PARITRACE_TARGET_AVX2
#endif

namespace paritrace {

// Each has what those before it have.
enum class CpuTarget { kBaseline, kAvx2, kAvx512 };

// The best this CPU has; PARITRACE_TARGET=scalar in the environment (read once) holds it down to kBaseline.
[[nodiscard]] CpuTarget ActiveCpuTarget();

// Tests run every kernel on every target: forces one, nullopt goes back. False, and nothing changes, where the CPU lacks it.
bool ForceCpuTarget(std::optional<CpuTarget> target);

}  // namespace paritrace
