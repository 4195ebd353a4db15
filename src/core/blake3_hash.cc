#include "core/blake3_hash.h"

#include <algorithm>
#include <array>
#include <vector>

#include <blake3.h>
#include <fmt/format.h>

#include "core/decode.h"

namespace paritrace {

std::string Blake3OfValues(const TensorView& tensor) {
  constexpr std::int64_t kPiece = 1 << 16;  // a multiple of every block
  blake3_hasher hasher;
  blake3_hasher_init(&hasher);
  std::vector<float> values(static_cast<std::size_t>(std::min(kPiece, tensor.size())));
  for (std::int64_t begin = 0; begin < tensor.size(); begin += kPiece) {
    const std::int64_t count = std::min(kPiece, tensor.size() - begin);
    DecodeF32(tensor, begin, count, values.data());
    blake3_hasher_update(&hasher, values.data(), static_cast<std::size_t>(count) * sizeof(float));
  }
  std::array<std::uint8_t, BLAKE3_OUT_LEN> digest;
  blake3_hasher_finalize(&hasher, digest.data(), digest.size());
  std::string text = "blake3:";
  for (const std::uint8_t byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

}  // namespace paritrace
