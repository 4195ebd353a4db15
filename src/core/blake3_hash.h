// BLAKE3, as other programs' records of tensors use it.
#pragma once

#include <string>

#include "core/tensor.h"

namespace paritrace {

// "blake3:" and 64 hex digits: of the tensor's values as little-endian f32 in row-major order, whatever its dtype is
// (BitNet-rs hashes them so). By the official implementation in C.
// Errors: as of DecodeF32.
[[nodiscard]] std::string Blake3OfValues(const TensorView& tensor);

}  // namespace paritrace
