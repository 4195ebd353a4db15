#include "trace/tensor_stats.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/decode.h"

namespace paritrace {
namespace {

nlohmann::ordered_json NumberOrNull(double value) {
  if (!std::isfinite(value)) return nullptr;  // JSON has no other way to say it
  return value;
}

}  // namespace

nlohmann::ordered_json TensorStats(const TensorView& tensor, std::string_view site) {
  const double mask_bound = MaskBound(tensor.dtype);
  const bool scores = site.ends_with(".attn.scores");
  constexpr std::int64_t kPiece = 4096;  // a multiple of every block
  std::array<double, kPiece> values;
  double min = std::numeric_limits<double>::infinity(), max = -min, sum = 0, squares = 0;
  std::int64_t nan = 0, inf = 0, masked = 0;
  const std::int64_t size = tensor.size();
  for (std::int64_t begin = 0; begin < size; begin += kPiece) {
    const std::int64_t count = std::min(kPiece, size - begin);
    DecodeF64(tensor, begin, count, values.data());
    for (std::int64_t i = 0; i < count; ++i) {
      const double value = values[static_cast<std::size_t>(i)];
      if (scores && value <= mask_bound) {
        ++masked;
      } else if (std::isfinite(value)) {
        min = std::min(min, value);
        max = std::max(max, value);
        sum += value;
        squares += value * value;
      } else {
        ++(std::isnan(value) ? nan : inf);
      }
    }
  }
  const auto finite = static_cast<double>(size - nan - inf - masked);  // 0: every quotient is NaN, and null
  nlohmann::ordered_json stats = {{"min", NumberOrNull(min)},
                                  {"max", NumberOrNull(max)},
                                  {"mean", NumberOrNull(sum / finite)},
                                  {"rms", NumberOrNull(std::sqrt(squares / finite))},
                                  {"nan", nan},
                                  {"inf", inf}};
  if (scores) stats["masked"] = masked;
  return stats;
}

}  // namespace paritrace
