#include "trace/tensor_stats.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "core/decode.h"
#include "core/parallel.h"
#include "trace/value_kernels.h"

namespace paritrace {
namespace {

nlohmann::ordered_json NumberOrNull(double value) {
  if (!std::isfinite(value)) return nullptr;  // JSON has no other way to say it
  return value;
}

// Types whose values floats hold exactly.
bool FitsInFloat(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI32:
    case DType::kI64:
    case DType::kU32:
    case DType::kU64: return false;
    default: return true;
  }
}

template <typename T>
void AddDecoded(const TensorView& tensor, std::int64_t begin, std::int64_t end, double mask_bound, Moments& moments) {
  constexpr std::int64_t kPiece = 4096;  // a multiple of every block and of the lanes
  std::array<T, kPiece> values;
  for (; begin < end; begin += kPiece) {
    const std::int64_t count = std::min(kPiece, end - begin);
    if constexpr (std::is_same_v<T, float>) {
      DecodeF32(tensor, begin, count, values.data());
    } else {
      DecodeF64(tensor, begin, count, values.data());
    }
    AddMoments(values.data(), count, mask_bound, moments);
  }
}

constexpr std::int64_t kPart = 1 << 17;  // values; a multiple of every block

}  // namespace

StatsOfParts::StatsOfParts(const TensorView& tensor, std::string_view site)
    : tensor_(tensor),
      scores_(site.ends_with(".attn.scores")),
      moments_(static_cast<std::size_t>((tensor.size() + kPart - 1) / kPart)) {}

void StatsOfParts::Run(std::int64_t part) {
  Moments& moments = moments_[static_cast<std::size_t>(part)];
  const std::int64_t begin = part * kPart, end = std::min(tensor_.size(), begin + kPart);
  const double mask_bound = scores_ ? MaskBound(tensor_.dtype) : std::numeric_limits<double>::quiet_NaN();
  if (FitsInFloat(tensor_.dtype)) {
    AddDecoded<float>(tensor_, begin, end, mask_bound, moments);
  } else {
    AddDecoded<double>(tensor_, begin, end, mask_bound, moments);
  }
}

nlohmann::ordered_json StatsOfParts::Json() const {
  Moments all;
  for (const Moments& part : moments_) all.Merge(part);
  // 0: every quotient is NaN, and null.
  const auto finite = static_cast<double>(tensor_.size() - all.nan - all.inf - all.masked);
  nlohmann::ordered_json stats = {{"min", NumberOrNull(all.min)},
                                  {"max", NumberOrNull(all.max)},
                                  {"mean", NumberOrNull(all.Sum() / finite)},
                                  {"rms", NumberOrNull(std::sqrt(all.Squares() / finite))},
                                  {"nan", all.nan},
                                  {"inf", all.inf}};
  if (scores_) stats["masked"] = all.masked;
  return stats;
}

nlohmann::ordered_json TensorStats(const TensorView& tensor, std::string_view site) {
  StatsOfParts stats(tensor, site);
  ParallelFor(stats.parts(), 1, [&](std::int64_t part, std::int64_t) { stats.Run(part); });
  return stats.Json();
}

}  // namespace paritrace
