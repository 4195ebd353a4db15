// Highway compiles this file once for each vector unit (foreach_target.h includes it again); the tables below hold one
// function a target and the best that the machine has is taken at run time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "compare/pair_kernels.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
// After foreach_target.h, as Highway asks.
#include <hwy/highway.h>

#include <hwy/cache_control.h>

#include "compare/kernel_loads-inl.h"

#include <cstdint>
#include <cstring>

#include "compare/pair_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace paritrace {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<double>;
using V = hn::Vec<D>;

// How far ahead of the loads. Two streams with arithmetic between their loads are more than the hardware foresees: asking
// by hand brought 16 GB/s to 23 where reading alone ran at 28 (two Zen 4 cores; 512 to 4096 bytes are within a tenth).
constexpr std::ptrdiff_t kPrefetchBytes = 1024;

struct Lanes {
  V max_abs, abs, aa, bb, ab, dd;
};

HWY_INLINE Lanes ZeroLanes(D d) {
  const V zero = hn::Zero(d);
  return {zero, zero, zero, zero, zero, zero};
}

HWY_INLINE std::int64_t Step(D d, V a, V b, Lanes& sums) {
  const V difference = hn::Sub(a, b);
  const V magnitude = hn::Abs(difference);
  sums.max_abs = hn::Max(sums.max_abs, magnitude);
  sums.abs = hn::Add(sums.abs, magnitude);
  sums.aa = hn::MulAdd(a, a, sums.aa);
  sums.bb = hn::MulAdd(b, b, sums.bb);
  sums.ab = hn::MulAdd(a, b, sums.ab);
  sums.dd = hn::MulAdd(difference, difference, sums.dd);
  return static_cast<std::int64_t>(hn::CountTrue(d, hn::Eq(a, b)));
}

template <typename A, typename B>
RunSums Run(const void* a_bytes, const void* b_bytes, std::int64_t count) {
  const D d;
  const auto* a = static_cast<const A*>(a_bytes);
  const auto* b = static_cast<const B*>(b_bytes);
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  // Two sets of sums, so that an addition need not wait for the one before it.
  Lanes even = ZeroLanes(d), odd = ZeroLanes(d);
  std::int64_t equal = 0;
  std::int64_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    hwy::Prefetch(reinterpret_cast<const char*>(a + i) + kPrefetchBytes);
    hwy::Prefetch(reinterpret_cast<const char*>(b + i) + kPrefetchBytes);
    equal += Step(d, LoadF64(d, a + i), LoadF64(d, b + i), even);
    equal += Step(d, LoadF64(d, a + i + lanes), LoadF64(d, b + i + lanes), odd);
  }
  if (i < count) {
    // The rest, filled up with zeros: they change no sum, and count as equal, which is taken back.
    HWY_ALIGN A a_rest[2 * hn::MaxLanes(d)] = {};
    HWY_ALIGN B b_rest[2 * hn::MaxLanes(d)] = {};
    const auto rest = static_cast<std::size_t>(count - i);
    std::memcpy(a_rest, a + i, rest * sizeof(A));
    std::memcpy(b_rest, b + i, rest * sizeof(B));
    equal += Step(d, LoadF64(d, a_rest), LoadF64(d, b_rest), even);
    equal += Step(d, LoadF64(d, a_rest + lanes), LoadF64(d, b_rest + lanes), odd);
    equal -= 2 * lanes - (count - i);
  }
  RunSums sums;
  sums.max_abs = hn::GetLane(hn::MaxOfLanes(d, hn::Max(even.max_abs, odd.max_abs)));
  sums.abs = hn::GetLane(hn::SumOfLanes(d, hn::Add(even.abs, odd.abs)));
  sums.aa = hn::GetLane(hn::SumOfLanes(d, hn::Add(even.aa, odd.aa)));
  sums.bb = hn::GetLane(hn::SumOfLanes(d, hn::Add(even.bb, odd.bb)));
  sums.ab = hn::GetLane(hn::SumOfLanes(d, hn::Add(even.ab, odd.ab)));
  sums.dd = hn::GetLane(hn::SumOfLanes(d, hn::Add(even.dd, odd.dd)));
  sums.equal = equal;
  return sums;
}

template <typename A>
RunKernel FindFor(DType b) {
  switch (b) {
    case DType::kF64: return &Run<A, double>;
    case DType::kF32: return &Run<A, float>;
    case DType::kF16: return &Run<A, Half>;
    case DType::kBF16: return &Run<A, BFloat>;
    default: return nullptr;
  }
}

RunKernel Find(DType a, DType b) {
  switch (a) {
    case DType::kF64: return FindFor<double>(b);
    case DType::kF32: return FindFor<float>(b);
    case DType::kF16: return FindFor<Half>(b);
    case DType::kBF16: return FindFor<BFloat>(b);
    default: return nullptr;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace paritrace
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <mutex>

#include "core/error.h"

namespace paritrace {
namespace {

HWY_EXPORT(Find);

constexpr std::int64_t kScalarTargets = HWY_EMU128 | HWY_SCALAR;

std::string NameOf(std::int64_t target) {
  if ((target & kScalarTargets) != 0) return "scalar";
  std::string name = hwy::TargetName(target);
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  return name;
}

// 0 for a name that is none of ours.
std::int64_t TargetOf(std::string_view name) {
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    if (NameOf(target) == name) return target;
  }
  return 0;
}

void Select(std::string_view name, std::string_view origin) {
  hwy::SetSupportedTargetsForTest(0);
  if (!name.empty()) {
    const std::int64_t target = TargetOf(name);
    if (target == 0) {
      std::string known;
      for (const std::string& target_name : KernelTargets()) known += (known.empty() ? "" : ", ") + target_name;
      throw UsageError(std::string(origin) + ": expected one of " + known + ", found \"" + std::string(name) + "\"");
    }
    hwy::SetSupportedTargetsForTest(target);
  }
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

void SelectFromEnvironment() {
  const char* asked = std::getenv("PARITRACE_TARGET");
  Select(asked != nullptr ? asked : "", "PARITRACE_TARGET");
}

}  // namespace

void SelectKernelTarget() {
  static std::once_flag once;
  std::call_once(once, SelectFromEnvironment);
}

RunKernel FindRunKernel(DType a, DType b) {
  SelectKernelTarget();
  return HWY_DYNAMIC_DISPATCH(Find)(a, b);
}

std::vector<std::string> KernelTargets() {
  std::vector<std::string> names;
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) names.push_back(NameOf(target));
  return names;
}

std::string ActiveKernelTarget() {
  SelectKernelTarget();
  return NameOf(hwy::SupportedAndGeneratedTargets().front());
}

void ForceKernelTarget(std::string_view name) {
  SelectKernelTarget();
  if (name.empty()) {
    SelectFromEnvironment();
  } else {
    Select(name, "kernel target");
  }
}

}  // namespace paritrace
#endif  // HWY_ONCE
