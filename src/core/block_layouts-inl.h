// What the files of block layouts share: loads from any alignment, and the loop over blocks for each CPU target.
// Only block_quant*.cc include it.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/block_quant.h"
#include "core/cpu_target.h"
#include "core/decode.h"

namespace paritrace::block_layouts {

constexpr int kSuper = 256;  // values in a K-quant's block, QK_K

PARITRACE_ALWAYS_INLINE std::uint32_t U8(const std::byte* at) { return std::to_integer<std::uint32_t>(*at); }
PARITRACE_ALWAYS_INLINE int I8(const std::byte* at) { return static_cast<std::int8_t>(*at); }

PARITRACE_ALWAYS_INLINE std::uint16_t U16(const std::byte* at) {
  std::uint16_t value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

PARITRACE_ALWAYS_INLINE float Half(const std::byte* at) { return HalfToFloat(U16(at)); }

template <typename Layout>
PARITRACE_ALWAYS_INLINE void DecodeBlocks(const std::byte* blocks, std::int64_t count, float* out) {
  const DTypeInfo& info = Info(Layout::kDType);
  const std::int64_t bytes = info.block_bytes, elements = info.block_elements;
  for (std::int64_t b = 0; b < count; ++b) Layout::Block(blocks + b * bytes, out + b * elements);
}

template <typename Layout>
void DecodeBaseline(const std::byte* blocks, std::int64_t count, float* out) {
  DecodeBlocks<Layout>(blocks, count, out);
}

template <typename Layout>
PARITRACE_TARGET_AVX2 void DecodeAvx2(const std::byte* blocks, std::int64_t count, float* out) {
  DecodeBlocks<Layout>(blocks, count, out);
}

template <typename... Layouts>
BlockDecoder FindAmong(DType dtype) {
  const bool avx2 = ActiveCpuTarget() >= CpuTarget::kAvx2;
  BlockDecoder found = nullptr;
  (void)((Layouts::kDType == dtype ? (found = avx2 ? &DecodeAvx2<Layouts> : &DecodeBaseline<Layouts>, true) : false) ||
         ...);
  return found;
}

}  // namespace paritrace::block_layouts
