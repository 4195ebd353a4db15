// Shows a tensor's values to a loop as floats or doubles: in place where they are stored so, else decoded a piece at a time.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "core/decode.h"
#include "core/tensor.h"

namespace paritrace {

// Types whose values floats hold exactly.
[[nodiscard]] inline bool FitsInFloat(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI32:
    case DType::kI64:
    case DType::kU32:
    case DType::kU64: return false;
    default: return true;
  }
}

inline constexpr std::int64_t kPiece = 4096;  // values; a multiple of every block and of the lanes of every sum

// Calls visit(at, values, count) for stretches of [begin, end) in their order, where values is a const float* or a
// const double* to the values at flat index `at`. begin: a multiple of the type's block.
// Errors: as of DecodeF64.
template <typename Visit>
void VisitValues(const TensorView& tensor, std::int64_t begin, std::int64_t end, const Visit& visit) {
  const auto in_place = [&]<typename T>(const T*) {
    const auto* const values = reinterpret_cast<const T*>(tensor.bytes.data());
    // In a file a tensor may start at any byte.
    if (reinterpret_cast<std::uintptr_t>(values) % alignof(T) != 0) return false;
    if (begin < end) visit(begin, values + begin, end - begin);
    return true;
  };
  if (tensor.dtype == DType::kF32 && in_place(static_cast<const float*>(nullptr))) return;
  if (tensor.dtype == DType::kF64 && in_place(static_cast<const double*>(nullptr))) return;
  const bool as_floats = FitsInFloat(tensor.dtype);
  std::array<float, kPiece> floats;
  std::array<double, kPiece> doubles;
  for (; begin < end; begin += kPiece) {
    const std::int64_t count = std::min(kPiece, end - begin);
    if (as_floats) {
      DecodeF32(tensor, begin, count, floats.data());
      visit(begin, static_cast<const float*>(floats.data()), count);
    } else {
      DecodeF64(tensor, begin, count, doubles.data());
      visit(begin, static_cast<const double*>(doubles.data()), count);
    }
  }
}

}  // namespace paritrace
