// Element types of tensors, scalar and block-quantised, and how many bytes they take.
// Kept apart from decoding (decode.h) so that readers can check sizes without knowing how a block is laid out.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace paritrace {

enum class DType : std::uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kF8E4M3,
  kF8E5M2,
  kI8,
  kI16,
  kI32,
  kI64,
  kU8,
  kU16,
  kU32,
  kU64,
  kBool,
  // ggml block types: one entry is a block of `block_elements` values along the last axis.
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kQ8_K,
  kIQ1_S,
  kIQ1_M,
  kIQ2_XXS,
  kIQ2_XS,
  kIQ2_S,
  kIQ3_XXS,
  kIQ3_S,
  kIQ4_NL,
  kIQ4_XS,
  kTQ1_0,
  kTQ2_0,
  kMXFP4,
  kNVFP4,
  kI2_S,
  kQ8_1,
  kQ1_0,
  // Not ggml's: 2-bit codes minus one, a byte for four values that stand a quarter of the rows apart (BitNet in HF folders).
  kTernaryRows,
};

struct DTypeInfo {
  std::string_view name;  // lower case, as in traces: "f32", "bf16", "q8_0"
  int block_elements;     // 1 for scalars
  int block_bytes;
  bool is_float;  // f64 … f8, and every block type
};

[[nodiscard]] const DTypeInfo& Info(DType dtype);
[[nodiscard]] inline std::string_view Name(DType dtype) { return Info(dtype).name; }
[[nodiscard]] inline bool IsBlockQuantised(DType dtype) { return Info(dtype).block_elements > 1; }

// nullopt for a name that is no dtype of ours.
[[nodiscard]] std::optional<DType> ParseDType(std::string_view name);

}  // namespace paritrace
