#include "compare/tile_pass.h"

#include <algorithm>
#include <numeric>

#include "core/dtype.h"

namespace paritrace {
namespace {

std::int64_t FilledUp(std::int64_t columns) { return (columns + kTileStep - 1) / kTileStep * kTileStep; }

double Total(const std::array<double, RowLanes::kLanes>& lanes) {
  return std::accumulate(lanes.begin(), lanes.end(), 0.0);
}

RunSums ToRunSums(const RowLanes& lanes, std::int64_t equal) {
  RunSums sums;
  sums.max_abs = *std::max_element(lanes.max_abs.begin(), lanes.max_abs.end());
  sums.aa = Total(lanes.aa);
  sums.bb = Total(lanes.bb);
  sums.ab = Total(lanes.ab);
  sums.dd = Total(lanes.dd);
  sums.equal = equal;
  return sums;
}

}  // namespace

bool TilePass::Takes(const TensorView& reference, const TensorView& subject, const PairLayout& layout) {
  return !layout.masked_scores && IsExactInF32(reference.dtype) && IsExactInF32(subject.dtype);
}

TilePass::Side::Side(const TensorView& tensor, const SideLayout& layout)
    : tensor_(tensor), layout_(layout), reader_(tensor, layout) {
  if (IsContiguous(layout)) widen_ = FindWidenKernel(tensor.dtype);
}

TilePass::Values TilePass::Side::Read(std::int64_t outer, std::int64_t row, std::int64_t rows, const Columns& columns) {
  const std::byte* const bytes = tensor_.bytes.data();
  if (tensor_.dtype == DType::kF32 && IsContiguous(layout_) && columns.count % kTileStep == 0) {
    const std::int64_t at = PlaceOf(layout_, outer, row, columns.first);
    return {reinterpret_cast<const float*>(bytes + at * 4), layout_.row_stride};
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    float* const to = tile_.data() + r * kTileColumns;
    if (widen_ != nullptr) {
      widen_(bytes + PlaceOf(layout_, outer, row + r, columns.first) * Info(tensor_.dtype).block_bytes, columns.count,
             to);
    } else {
      std::copy_n(reader_.Read(outer, row + r, columns.first, columns.count), columns.count, to);
    }
    std::fill(to + columns.count, to + FilledUp(columns.count), 0.0f);
  }
  return {tile_.data(), kTileColumns};
}

Upcoming TilePass::Side::Later(std::int64_t outer, std::int64_t row, std::int64_t inner) const {
  const DTypeInfo& info = Info(tensor_.dtype);
  if (!IsContiguous(layout_) || info.block_elements != 1)
    return {reinterpret_cast<const std::byte*>(tile_.data()), 0, 0};
  return {tensor_.bytes.data() + PlaceOf(layout_, outer, row, inner) * info.block_bytes,
          layout_.row_stride * info.block_bytes, info.block_bytes};
}

TilePass::TilePass(const TensorView& reference, const TensorView& subject, const PairLayout& layout)
    : layout_(layout),
      least_exponent_(CoarserPrecision(reference.dtype, subject.dtype).least_exponent),
      reference_(reference, layout.reference),
      subject_(subject, layout.subject) {}

bool TilePass::AddTile(const Tile& tile, const Columns& columns, std::int64_t outer, DetailStats& to) {
  const std::int64_t channel = outer * layout_.inner + columns.first;
  double* const error = to.channel_error.data() + channel;
  double* const energy = to.channel_energy.data() + channel;
  if (columns.count % kTileStep == 0) return kernel_.add(tile, least_exponent_, sums_, error, energy);
  // The kernel needs room behind the last channel.
  alignas(64) std::array<double, kTileColumns> padded_error{}, padded_energy{};
  if (!kernel_.add(tile, least_exponent_, sums_, padded_error.data(), padded_energy.data())) return false;
  for (std::int64_t i = 0; i < columns.count; ++i) {
    error[i] += padded_error[static_cast<std::size_t>(i)];
    energy[i] += padded_energy[static_cast<std::size_t>(i)];
  }
  return true;
}

TilePass::Rows TilePass::Add(std::int64_t outer, std::int64_t row, std::int64_t rows, const Columns& columns,
                             DetailStats& to) {
  sums_.rows.fill({});
  sums_.abs.fill(0);
  sums_.equal.fill(0);
  left_out_.clear();
  Rows result;
  const std::int64_t tiles = (columns.count + kTileColumns - 1) / kTileColumns;
  for (std::int64_t done = 0; done < columns.count; done += kTileColumns) {
    const Columns now{columns.first + done, std::min(kTileColumns, columns.count - done)};
    const Values a = reference_.Read(outer, row, rows, now), b = subject_.Read(outer, row, rows, now);
    // Two tiles on; at the end of the tensor, what is here already.
    const std::int64_t later = done / kTileColumns + 2, later_row = row + later / tiles * rows;
    const bool inside = later_row + rows <= layout_.rows;
    const std::int64_t ask_row = inside ? later_row : row;
    const std::int64_t ask_column = inside ? columns.first + later % tiles * kTileColumns : now.first;
    const Tile tile{.a = a.first,
                    .b = b.first,
                    .a_stride = a.stride,
                    .b_stride = b.stride,
                    .rows = rows,
                    .columns = now.count,
                    .a_later = reference_.Later(outer, ask_row, ask_column),
                    .b_later = subject_.Later(outer, ask_row, ask_column)};
    if (AddTile(tile, now, outer, to)) {
      result.counted += now.count;
    } else {
      left_out_.push_back(now);
    }
  }
  for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) {
    result.sums[r] = ToRunSums(sums_.rows[r], sums_.equal[r]);
  }
  result.sums[0].abs = Total(sums_.abs);
  result.left_out = left_out_;
  return result;
}

void TilePass::Finish(DetailStats& to) {
  kernel_.count_pending(sums_);
  to.exponents.Merge(sums_.exponents);
}

}  // namespace paritrace
