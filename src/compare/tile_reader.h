// Reads one side of a pair in small decoded pieces, whatever its dtype and layout.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "compare/pair_stats.h"
#include "core/decode.h"

namespace paritrace {

[[nodiscard]] inline bool IsContiguous(const SideLayout& side) { return side.inner_stride == 1 && side.order.empty(); }

// Index, in the side's tensor, of the value (outer, row, inner).
[[nodiscard]] inline std::int64_t PlaceOf(const SideLayout& side, std::int64_t outer, std::int64_t row,
                                          std::int64_t inner) {
  const std::int64_t at = side.order.empty() ? inner : side.order[static_cast<std::size_t>(inner)];
  return side.base + outer * side.outer_stride + row * side.row_stride + at * side.inner_stride;
}

// Whether f32 holds every value of the type.
[[nodiscard]] bool IsExactInF32(DType dtype);

// values [begin, begin + count) as T: float, double, or long double, which alone holds 64-bit integers exactly.
inline void DecodeInto(const TensorView& tensor, std::int64_t begin, std::int64_t count, float* out) {
  DecodeF32(tensor, begin, count, out);
}
inline void DecodeInto(const TensorView& tensor, std::int64_t begin, std::int64_t count, double* out) {
  DecodeF64(tensor, begin, count, out);
}
void DecodeInto(const TensorView& tensor, std::int64_t begin, std::int64_t count, long double* out);

template <typename T>
class TileReader {
 public:
  // Values read at once: two tiles of doubles lie in the first-level cache together.
  static constexpr std::int64_t kTile = 1024;

  // Both must outlive the reader.
  TileReader(const TensorView& tensor, const SideLayout& side) : tensor_(tensor), side_(side) {}

  // count <= kTile values from (outer, row, inner) on; valid until the next call.
  const T* Read(std::int64_t outer, std::int64_t row, std::int64_t inner, std::int64_t count) {
    if (IsContiguous(side_)) return Span(PlaceOf(side_, outer, row, inner), count);
    for (std::int64_t i = 0; i < count; ++i) {
      gathered_[static_cast<std::size_t>(i)] = *Span(PlaceOf(side_, outer, row, inner + i), 1);
    }
    return gathered_.data();
  }

 private:
  // Decodes the window around [begin, begin + count) unless it is decoded already: gathers mostly stay inside one.
  const T* Span(std::int64_t begin, std::int64_t count) {
    if (begin < window_begin_ || begin + count > window_end_) {
      constexpr std::int64_t kAlign = 256;  // a multiple of every block size
      window_begin_ = begin / kAlign * kAlign;
      window_end_ = std::min(tensor_.size(), window_begin_ + static_cast<std::int64_t>(window_.size()));
      DecodeInto(tensor_, window_begin_, window_end_ - window_begin_, window_.data());
    }
    return window_.data() + (begin - window_begin_);
  }

  const TensorView& tensor_;
  const SideLayout& side_;
  std::int64_t window_begin_ = 0, window_end_ = 0;
  std::array<T, kTile + 256> window_;
  std::array<T, kTile> gathered_;
};

}  // namespace paritrace
