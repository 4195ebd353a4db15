#include "compare/pair_stats.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <type_traits>

#include <fmt/format.h>

#include "compare/pair_kernels.h"
#include "compare/tile_pass.h"
#include "compare/tile_reader.h"
#include "core/error.h"
#include "core/parallel.h"

namespace paritrace {
namespace {

// Values a kernel takes at once: small enough that a second look (NaN found, place of the maximum) finds them in cache.
constexpr std::int64_t kRun = 16384;
constexpr std::int64_t kTile = TileReader<double>::kTile;
// Longer rows are cut so that several threads share them; a multiple of every block size.
constexpr std::int64_t kPiece = 1 << 16;
// Rows a thread takes at once for the channels' sums, which are as long as a row or two and are touched for the first time.
constexpr std::int64_t kDetailRows = 256;
// Values a thread takes at once: large against the cost of taking them, small against a large tensor.
constexpr std::int64_t kChunk = 1 << 18;

double CosineOf(double rr, double ss, double rs) {
  if (rr == 0 && ss == 0) return 1;
  if (rr == 0 || ss == 0) return 0;
  // Roots first: a product of two sums may overflow where neither sum does.
  return std::clamp(rs / (std::sqrt(rr) * std::sqrt(ss)), -1.0, 1.0);
}

double NmseOf(double dd, double rr) {
  if (dd == 0) return 0;
  return rr == 0 ? std::numeric_limits<double>::infinity() : dd / rr;
}

bool Is64BitInteger(DType dtype) { return dtype == DType::kI64 || dtype == DType::kU64; }

std::int64_t IndexOn(const SideLayout& side, const PairLayout& layout, std::int64_t index) {
  return PlaceOf(side, index / layout.inner / layout.rows, index / layout.inner % layout.rows, index % layout.inner);
}

void Fold(const RunSums& sums, std::int64_t count, std::int64_t start, PairStats& total, PositionStats& position) {
  total.count += count;
  total.equal += sums.equal;
  if (sums.max_abs > total.max_abs || (sums.max_abs == total.max_abs && sums.max_abs > 0 && start < total.max_abs_at)) {
    total.max_abs = sums.max_abs;
    total.max_abs_at = start;  // the run; the place within it is looked up once, at the end
  }
  total.abs.Add(sums.abs);
  total.rr.Add(sums.aa);
  total.ss.Add(sums.bb);
  total.rs.Add(sums.ab);
  total.dd.Add(sums.dd);
  position.max_abs = std::max(position.max_abs, sums.max_abs);
  position.rr += sums.aa;
  position.ss += sums.bb;
  position.rs += sums.ab;
  position.dd += sums.dd;
  position.unequal += count - sums.equal;
}

// What counts as masked on each side. Nothing does where a tensor holds no scores: -infinity is then a value as any other.
struct MaskBounds {
  double reference = kNothing, subject = kNothing;
  static constexpr double kNothing = std::numeric_limits<double>::quiet_NaN();  // no value is <= NaN
};

// Value by value, for runs that hold a NaN, an infinity, a mask on one side, or 64-bit integers.
template <typename T>
void FoldCarefully(const T* a, const T* b, std::int64_t count, std::int64_t start, const MaskBounds& masks,
                   PairStats& total, PositionStats& position) {
  using Wide = std::conditional_t<std::is_same_v<T, float>, double, T>;  // differences as the kernels take them
  RunSums sums;
  long double abs = 0, aa = 0, bb = 0, ab = 0, dd = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const Wide r = a[i], s = b[i];
    const bool r_masked = r <= masks.reference, s_masked = s <= masks.subject;
    if (r_masked || s_masked) {
      if (r_masked && s_masked) {
        ++total.masked;
        ++sums.equal;
        continue;
      }
    } else if (std::isfinite(r) && std::isfinite(s)) {
      const Wide difference = r - s;
      const auto magnitude = static_cast<double>(std::fabs(difference));
      sums.equal += r == s;
      sums.max_abs = std::max(sums.max_abs, magnitude);
      abs += std::fabs(static_cast<long double>(difference));
      aa += static_cast<long double>(r) * r;
      bb += static_cast<long double>(s) * s;
      ab += static_cast<long double>(r) * s;
      dd += static_cast<long double>(difference) * difference;
      continue;
    }
    ++total.unmeasured;
    total.nan_reference += std::isnan(r);
    total.nan_subject += std::isnan(s);
    total.nan_either += std::isnan(r) || std::isnan(s);
    // A mask written as -inf is a mask, not an infinity, also where the other side lacks it.
    const bool r_inf = std::isinf(r) && !r_masked;
    const bool s_inf = std::isinf(s) && !s_masked;
    total.inf_reference += r_inf;
    total.inf_subject += s_inf;
    total.inf_either += r_inf || s_inf;
    if (r == s || (std::isnan(r) && std::isnan(s))) {
      ++sums.equal;
    } else {
      ++total.mismatches;
      ++position.mismatches;
      const std::int64_t at = start + i;
      if (total.first_mismatch < 0 || at < total.first_mismatch) total.first_mismatch = at;
    }
  }
  sums.abs = static_cast<double>(abs);
  sums.aa = static_cast<double>(aa);
  sums.bb = static_cast<double>(bb);
  sums.ab = static_cast<double>(ab);
  sums.dd = static_cast<double>(dd);
  Fold(sums, count, start, total, position);
}

// Both masked: taken out (0 against 0, which the kernel counts as equal). False, nothing done, if only one side is.
bool TakeOutMasks(double* a, double* b, std::int64_t count, const MaskBounds& masks, PairStats& total) {
  std::int64_t both = 0, either = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    both += (a[i] <= masks.reference) & (b[i] <= masks.subject);
    either += (a[i] <= masks.reference) | (b[i] <= masks.subject);
  }
  if (both != either) return false;
  total.masked += both;
  if (both == 0) return true;
  for (std::int64_t i = 0; i < count; ++i) {
    const bool masked = a[i] <= masks.reference;
    a[i] = masked ? 0 : a[i];
    b[i] = masked ? 0 : b[i];
  }
  return true;
}

bool Usable(const RunSums& sums) { return std::isfinite(sums.aa) && std::isfinite(sums.bb); }

class Comparison {
 public:
  Comparison(const TensorView& reference, const TensorView& subject, const PairLayout& layout)
      : reference_(reference), subject_(subject), layout_(layout) {
    CheckSide(reference, layout.reference);
    CheckSide(subject, layout.subject);
    if (layout.masked_scores) {
      masks_ = {MaskBound(reference.dtype), MaskBound(subject.dtype)};
    } else if (IsContiguous(layout.reference) && IsContiguous(layout.subject)) {
      direct_ = FindRunKernel(reference.dtype, subject.dtype);
    }
  }

  PairComparison Run(const CompareOptions& options) const {
    PairComparison result;
    const std::int64_t pieces = layout_.inner == 0 ? 1 : (layout_.inner - 1) / kPiece + 1;
    const std::int64_t units = layout_.rows * pieces;
    const std::int64_t work = std::max<std::int64_t>(1, layout_.outer * std::min(layout_.inner, kPiece));
    std::int64_t grain = std::max<std::int64_t>(1, kChunk / work);
    std::optional<DetailCollector> collector;
    if (options.detail) {
      collector.emplace(reference_, subject_, layout_);
      grain = std::max({grain, units / DetailChunks() + 1, kDetailRows});
    }
    const bool tiles = collector && TilePass::Takes(reference_, subject_, layout_);
    std::vector<PositionStats> parts(static_cast<std::size_t>(units));
    const std::size_t chunks = units == 0 ? 0 : static_cast<std::size_t>((units - 1) / grain + 1);
    std::vector<PairStats> totals(chunks);
    std::vector<DetailStats> details(collector ? chunks : 0);
    ParallelFor(units, grain, [&](std::int64_t begin, std::int64_t end) {
      const auto chunk = static_cast<std::size_t>(begin / grain);
      PairStats total;
      if (collector) details[chunk] = collector->Start();
      if (tiles) {
        AddTiled(begin, end, pieces, *collector, total, parts.data(), details[chunk]);
      } else {
        for (std::int64_t unit = begin; unit < end; ++unit) {
          const std::int64_t inner = unit % pieces * kPiece, count = std::min(kPiece, layout_.inner - inner);
          for (std::int64_t outer = 0; outer < layout_.outer; ++outer) {
            AddSpan(outer, unit / pieces, inner, count, total, parts[static_cast<std::size_t>(unit)]);
            if (collector) collector->Add(outer, unit / pieces, 1, inner, count, details[chunk]);
          }
        }
      }
      totals[chunk] = total;
      if (options.progress) options.progress(total.count);
    });
    for (const PairStats& total : totals) result.total.Merge(total);
    if (collector) {
      result.detail = collector->Start();
      for (const DetailStats& detail : details) result.detail->Merge(detail);
    }
    if (pieces == 1) {
      result.positions = std::move(parts);
    } else {
      result.positions.resize(static_cast<std::size_t>(layout_.rows));
      for (std::size_t i = 0; i < parts.size(); ++i) {
        result.positions[i / static_cast<std::size_t>(pieces)].Merge(parts[i]);
      }
    }
    FindMaximum(result.total);
    return result;
  }

 private:
  // Each chunk holds two numbers a channel: few enough chunks that they stay small together. From the layout alone, so
  // that the same sums are added in the same order on any number of threads.
  std::int64_t DetailChunks() const {
    constexpr std::int64_t kMostBytes = 64 << 20;
    const std::int64_t bytes = std::max<std::int64_t>(1, layout_.outer * layout_.inner * 16);
    return std::clamp<std::int64_t>(kMostBytes / bytes, 4, 256);
  }

  static void CheckSide(const TensorView& tensor, const SideLayout& side, const PairLayout& layout) {
    if (layout.Count() == 0) return;
    std::int64_t last = layout.inner - 1;
    bool order_fits = side.order.empty() || static_cast<std::int64_t>(side.order.size()) == layout.inner;
    if (!side.order.empty()) {
      last = *std::max_element(side.order.begin(), side.order.end());
      order_fits = order_fits && *std::min_element(side.order.begin(), side.order.end()) >= 0;
    }
    const std::int64_t end = side.base + (layout.outer - 1) * side.outer_stride + (layout.rows - 1) * side.row_stride +
                             last * side.inner_stride;
    const bool forward = side.base >= 0 && side.outer_stride >= 0 && side.row_stride >= 0 && side.inner_stride >= 0;
    if (!order_fits || !forward || end >= tensor.size()) {
      throw InternalError(
          fmt::format("layout reaches value {} of \"{}\" {}", end, tensor.name, ToString(tensor.shape)));
    }
  }
  void CheckSide(const TensorView& tensor, const SideLayout& side) const { CheckSide(tensor, side, layout_); }

  std::int64_t Index(std::int64_t outer, std::int64_t row, std::int64_t inner) const {
    return (outer * layout_.rows + row) * layout_.inner + inner;
  }

  const std::byte* Address(const TensorView& tensor, const SideLayout& side, std::int64_t outer, std::int64_t row,
                           std::int64_t inner) const {
    return tensor.bytes.data() + PlaceOf(side, outer, row, inner) * Info(tensor.dtype).block_bytes;
  }

  void AddSpan(std::int64_t outer, std::int64_t row, std::int64_t inner, std::int64_t count, PairStats& total,
               PositionStats& position) const {
    if (Is64BitInteger(reference_.dtype) || Is64BitInteger(subject_.dtype)) {
      return AddTiles<long double>(outer, row, inner, count, total, position);
    }
    if (direct_ == nullptr) {
      const bool narrow = IsExactInF32(reference_.dtype) && IsExactInF32(subject_.dtype) && !layout_.masked_scores;
      return narrow ? AddTiles<float>(outer, row, inner, count, total, position)
                    : AddTiles<double>(outer, row, inner, count, total, position);
    }
    for (std::int64_t done = 0; done < count; done += kRun) {
      const std::int64_t now = std::min(kRun, count - done), at = inner + done;
      const RunSums sums = direct_(Address(reference_, layout_.reference, outer, row, at),
                                   Address(subject_, layout_.subject, outer, row, at), now);
      if (Usable(sums)) {
        Fold(sums, now, Index(outer, row, at), total, position);
      } else {
        AddTiles<double>(outer, row, at, now, total, position);
      }
    }
  }

  // All statistics at once. units: rows, cut into pieces.
  void AddTiled(std::int64_t begin, std::int64_t end, std::int64_t pieces, const DetailCollector& collector,
                PairStats& total, PositionStats* positions, DetailStats& detail) const {
    TilePass pass(reference_, subject_, layout_);
    const std::int64_t group = pieces == 1 ? kTileRows : 1;
    for (std::int64_t first = begin; first < end; first += group) {
      const std::int64_t rows = std::min(group, end - first), row = first / pieces, inner = first % pieces * kPiece;
      const TilePass::Columns columns{inner, std::min(kPiece, layout_.inner - inner)};
      for (std::int64_t outer = 0; outer < layout_.outer; ++outer) {
        const TilePass::Rows found = pass.Add(outer, row, rows, columns, detail);
        for (std::int64_t r = 0; r < rows; ++r) {
          PositionStats& position = positions[first + r];
          Fold(found.sums[static_cast<std::size_t>(r)], found.counted, Index(outer, row + r, inner), total, position);
          for (const TilePass::Columns& left : found.left_out) {
            AddTiles<double>(outer, row + r, left.first, left.count, total, position);
          }
        }
        for (const TilePass::Columns& left : found.left_out) {
          collector.Add(outer, row, rows, left.first, left.count, detail);
        }
      }
    }
    pass.Finish(detail);
  }

  template <typename T>
  void AddTiles(std::int64_t outer, std::int64_t row, std::int64_t inner, std::int64_t count, PairStats& total,
                PositionStats& position) const {
    TileReader<T> reference(reference_, layout_.reference), subject(subject_, layout_.subject);
    for (std::int64_t done = 0; done < count; done += kTile) {
      const std::int64_t now = std::min(kTile, count - done), start = Index(outer, row, inner + done);
      const T* a = reference.Read(outer, row, inner + done, now);
      const T* b = subject.Read(outer, row, inner + done, now);
      if constexpr (!std::is_same_v<T, long double>) {
        const RunKernel kernel = std::is_same_v<T, float> ? f32_ : f64_;
        std::array<T, kTile> a_copy, b_copy;
        const T *a_in = a, *b_in = b;
        bool plain = true;
        if constexpr (std::is_same_v<T, double>) {
          if (layout_.masked_scores) {
            std::copy_n(a, now, a_copy.data());
            std::copy_n(b, now, b_copy.data());
            plain = TakeOutMasks(a_copy.data(), b_copy.data(), now, masks_, total);
            a_in = a_copy.data();
            b_in = b_copy.data();
          }
        }
        if (plain) {
          const RunSums sums = kernel(a_in, b_in, now);
          if (Usable(sums)) {
            Fold(sums, now, start, total, position);
            continue;
          }
        }
      }
      FoldCarefully(a, b, now, start, masks_, total, position);
    }
  }

  // The first index in the run that holds the maximum, by the arithmetic that found it.
  void FindMaximum(PairStats& total) const {
    if (total.max_abs_at < 0) return;
    if (Is64BitInteger(reference_.dtype) || Is64BitInteger(subject_.dtype)) return FindMaximumAs<long double>(total);
    FindMaximumAs<double>(total);
  }

  template <typename T>
  void FindMaximumAs(PairStats& total) const {
    TileReader<T> reference(reference_, layout_.reference), subject(subject_, layout_.subject);
    const std::int64_t row = total.max_abs_at / layout_.inner;
    for (std::int64_t inner = total.max_abs_at % layout_.inner; inner < layout_.inner; inner += kTile) {
      const std::int64_t now = std::min(kTile, layout_.inner - inner);
      const T* a = reference.Read(row / layout_.rows, row % layout_.rows, inner, now);
      const T* b = subject.Read(row / layout_.rows, row % layout_.rows, inner, now);
      for (std::int64_t i = 0; i < now; ++i) {
        if (a[i] <= masks_.reference || b[i] <= masks_.subject) continue;
        if (static_cast<double>(std::fabs(a[i] - b[i])) != total.max_abs) continue;
        total.max_abs_at = row * layout_.inner + inner + i;
        total.max_reference = static_cast<double>(a[i]);
        total.max_subject = static_cast<double>(b[i]);
        return;
      }
    }
    throw InternalError("the maximum is not where the kernel saw it");
  }

  const TensorView& reference_;
  const TensorView& subject_;
  const PairLayout& layout_;
  MaskBounds masks_;
  // nullptr: values must be decoded, gathered or unmasked first.
  RunKernel direct_ = nullptr;
  // For decoded tiles.
  RunKernel f32_ = FindRunKernel(DType::kF32, DType::kF32), f64_ = FindRunKernel(DType::kF64, DType::kF64);
};

}  // namespace

void CarriedSum::Add(double term) {
  const double sum = value + term;
  if (!std::isfinite(sum)) {  // TwoSum would turn an infinity into NaN
    value = sum;
    carry = 0;
    return;
  }
  const double kept = sum - value;
  carry += (value - (sum - kept)) + (term - kept);
  value = sum;
}

void CarriedSum::Add(const CarriedSum& other) {
  Add(other.value);
  if (std::isfinite(value)) Add(other.carry);
}

void PairStats::Merge(const PairStats& other) {
  count += other.count;
  equal += other.equal;
  nan_reference += other.nan_reference;
  nan_subject += other.nan_subject;
  nan_either += other.nan_either;
  inf_reference += other.inf_reference;
  inf_subject += other.inf_subject;
  inf_either += other.inf_either;
  masked += other.masked;
  mismatches += other.mismatches;
  unmeasured += other.unmeasured;
  if (other.first_mismatch >= 0 && (first_mismatch < 0 || other.first_mismatch < first_mismatch)) {
    first_mismatch = other.first_mismatch;
  }
  const bool larger = other.max_abs > max_abs;
  const bool earlier =
      other.max_abs == max_abs && other.max_abs_at >= 0 && (max_abs_at < 0 || other.max_abs_at < max_abs_at);
  if (larger || earlier) {
    max_abs = other.max_abs;
    max_abs_at = other.max_abs_at;
    max_reference = other.max_reference;
    max_subject = other.max_subject;
  }
  abs.Add(other.abs);
  rr.Add(other.rr);
  ss.Add(other.ss);
  rs.Add(other.rs);
  dd.Add(other.dd);
}

double PairStats::MeanAbs() const { return Finite() == 0 ? 0 : abs.Total() / static_cast<double>(Finite()); }
double PairStats::RmsReference() const {
  return Finite() == 0 ? 0 : std::sqrt(rr.Total() / static_cast<double>(Finite()));
}
double PairStats::RmsSubject() const {
  return Finite() == 0 ? 0 : std::sqrt(ss.Total() / static_cast<double>(Finite()));
}
double PairStats::Cosine() const { return CosineOf(rr.Total(), ss.Total(), rs.Total()); }
double PairStats::Nmse() const { return NmseOf(dd.Total(), rr.Total()); }

void PositionStats::Merge(const PositionStats& other) {
  max_abs = std::max(max_abs, other.max_abs);
  rr += other.rr;
  ss += other.ss;
  rs += other.rs;
  dd += other.dd;
  mismatches += other.mismatches;
  unequal += other.unequal;
}

double PositionStats::Cosine() const { return CosineOf(rr, ss, rs); }
double PositionStats::Nmse() const { return NmseOf(dd, rr); }

std::int64_t PairLayout::ReferenceIndex(std::int64_t index) const { return IndexOn(reference, *this, index); }
std::int64_t PairLayout::SubjectIndex(std::int64_t index) const { return IndexOn(subject, *this, index); }

PairLayout ContiguousLayout(std::int64_t rows, std::int64_t inner) {
  PairLayout layout;
  layout.rows = rows;
  layout.inner = inner;
  layout.reference.row_stride = layout.subject.row_stride = inner;
  return layout;
}

PairComparison ComparePair(const TensorView& reference, const TensorView& subject, const PairLayout& layout,
                           const CompareOptions& options) {
  return Comparison(reference, subject, layout).Run(options);
}

}  // namespace paritrace
