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

}  // namespace paritrace
