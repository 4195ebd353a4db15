#include "graph/requantise.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "graph/arithmetic.h"

namespace paritrace {
namespace {

constexpr std::size_t kBlock = 32;

float ToHalf(float value) { return static_cast<float>(Round(Rounding::kF16, value)); }
float Inverse(float scale) { return scale != 0 ? 1.0F / scale : 0.0F; }

void Q8(std::span<float> block) {
  float largest = 0;
  for (const float x : block) largest = std::max(largest, std::fabs(x));
  const float scale = largest / 127.0F, inverse = Inverse(scale), kept = ToHalf(scale);
  for (float& x : block) x = std::round(x * inverse) * kept;
}

// Codes 0 … levels - 1 around a zero in the middle; the scale's sign makes the extreme value a code of its own.
void Symmetric(std::span<float> block, int levels) {
  float extreme = 0;
  for (const float x : block) {
    if (std::fabs(x) > std::fabs(extreme)) extreme = x;
  }
  const int zero = levels / 2;
  const float scale = extreme / static_cast<float>(-zero), inverse = Inverse(scale), kept = ToHalf(scale);
  for (float& x : block) {
    const int code = std::min(levels - 1, static_cast<int>(x * inverse + (static_cast<float>(zero) + 0.5F)));
    x = static_cast<float>(code - zero) * kept;
  }
}

void WithMinimum(std::span<float> block, int levels) {
  const auto [low, high] = std::ranges::minmax(block);
  const float scale = (high - low) / static_cast<float>(levels - 1), inverse = Inverse(scale), kept = ToHalf(scale),
              base = ToHalf(low);
  for (float& x : block) {
    const int code = std::min(levels - 1, static_cast<int>((x - low) * inverse + 0.5F));
    x = static_cast<float>(code) * kept + base;
  }
}

}  // namespace

void Requantise(DType type, std::span<float> row) {
  if (type == DType::kF16 || type == DType::kBF16) {
    const Rounding rounding = type == DType::kF16 ? Rounding::kF16 : Rounding::kBF16;
    for (float& x : row) x = static_cast<float>(Round(rounding, x));
    return;
  }
  if (row.size() % kBlock != 0) return;
  for (std::size_t start = 0; start < row.size(); start += kBlock) {
    const auto block = row.subspan(start, kBlock);
    switch (type) {
      case DType::kQ8_0: Q8(block); break;
      case DType::kQ4_0: Symmetric(block, 16); break;
      case DType::kQ5_0: Symmetric(block, 32); break;
      case DType::kQ4_1: WithMinimum(block, 16); break;
      case DType::kQ5_1: WithMinimum(block, 32); break;
      default: throw InternalError("no quantiser for this type");
    }
  }
}

}  // namespace paritrace
