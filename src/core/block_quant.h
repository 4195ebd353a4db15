// The layouts of ggml's block types: how a run of blocks becomes floats.
// Kept apart from decode.cc because the layouts are other people's, and change when they add a type.
// Source: ggml-quants.c and ggml-common.h; the values are those of gguf-py's dequantize, to the bit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace paritrace {

// Decodes `count` whole blocks at `blocks` (any alignment) into count * block_elements floats.
using BlockDecoder = void (*)(const std::byte* blocks, std::int64_t count, float* out);

// nullptr for scalars and for block types that nothing decodes yet. kI2_S: the codes minus one, without the tensor's scale.
// The decoder is the one for the active CPU target (cpu_target.h).
[[nodiscard]] BlockDecoder FindBlockDecoder(DType dtype);

// Of the types that index a codebook (block_quant_iq.cc): IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S. nullptr for others.
[[nodiscard]] BlockDecoder FindCodebookDecoder(DType dtype);

}  // namespace paritrace
