#include "compare/tile_reader.h"

namespace paritrace {

bool IsExactInF32(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI32:
    case DType::kU32:
    case DType::kI64:
    case DType::kU64: return false;
    default: return true;
  }
}

void DecodeInto(const TensorView& tensor, std::int64_t begin, std::int64_t count, long double* out) {
  const std::byte* from = tensor.bytes.data() + begin * 8;
  for (std::int64_t i = 0; i < count; ++i) {
    if (tensor.dtype == DType::kI64) {
      std::int64_t value;
      __builtin_memcpy(&value, from + 8 * i, 8);
      out[i] = value;
    } else if (tensor.dtype == DType::kU64) {
      std::uint64_t value;
      __builtin_memcpy(&value, from + 8 * i, 8);
      out[i] = value;
    } else {
      double value;
      DecodeF64(tensor, begin + i, 1, &value);
      out[i] = value;
    }
  }
}

}  // namespace paritrace
