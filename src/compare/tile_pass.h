// Goes over a pair once, tile by tile, for all statistics of `diff --all-stats`: what is not f32 in contiguous rows is
// widened or gathered into a tile first.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "compare/detail_kernels.h"
#include "compare/detail_stats.h"
#include "compare/pair_kernels.h"
#include "compare/pair_stats.h"
#include "compare/tile_reader.h"

namespace paritrace {

// One thread's pass over some of the rows.
class TilePass {
 public:
  // Whether f32 holds all values of both, and none is a mask.
  [[nodiscard]] static bool Takes(const TensorView& reference, const TensorView& subject, const PairLayout& layout);

  // Both tensors and the layout must outlive the pass.
  TilePass(const TensorView& reference, const TensorView& subject, const PairLayout& layout);

  // Columns of the layout's rows.
  struct Columns {
    std::int64_t first = 0, count = 0;
  };
  struct Rows {
    std::array<RunSums, kTileRows> sums;  // by row; RunSums::abs of all rows together stands in the first
    std::int64_t counted = 0;             // values of each row that are in the sums
    // The others: no number of theirs is taken, since a value among them, in whichever row, is not finite.
    std::span<const Columns> left_out;
  };
  // Adds the columns of at most kTileRows rows from `row` on to the channels of `to`, and remembers their exponents.
  // The result is valid until the next call.
  [[nodiscard]] Rows Add(std::int64_t outer, std::int64_t row, std::int64_t rows, const Columns& columns,
                         DetailStats& to);

  // Adds all exponents; nothing may be added after that.
  void Finish(DetailStats& to);

 private:
  // Rows that are ready for the kernel, and how many values lie between them.
  struct Values {
    const float* first = nullptr;
    std::int64_t stride = 0;
  };
  class Side {
   public:
    Side(const TensorView& tensor, const SideLayout& layout);
    Values Read(std::int64_t outer, std::int64_t row, std::int64_t rows, const Columns& columns);
    [[nodiscard]] Upcoming Later(std::int64_t outer, std::int64_t row, std::int64_t inner) const;

   private:
    const TensorView& tensor_;
    const SideLayout& layout_;
    WidenKernel widen_ = nullptr;
    TileReader<float> reader_;
    alignas(64) std::array<float, kTileRows * kTileColumns> tile_{};
  };

  bool AddTile(const Tile& tile, const Columns& columns, std::int64_t outer, DetailStats& to);

  const PairLayout& layout_;
  const int least_exponent_;
  const TileKernel kernel_ = FindTileKernel();
  Side reference_, subject_;
  TileSums sums_;
  std::vector<Columns> left_out_;
};

}  // namespace paritrace
