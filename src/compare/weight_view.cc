#include "compare/weight_view.h"

#include <algorithm>
#include <cmath>

#include "compare/quant_step.h"
#include "core/decode.h"
#include "core/parallel.h"

namespace paritrace {
namespace {

constexpr std::int64_t kGroup = 256, kChunkValues = 1 << 16;

// Sums of one chunk; chunks are added in order, so the totals are the same for any number of threads.
struct Sums {
  std::int64_t values = 0, exact = 0, nonfinite = 0, groups = 0, bad = 0, first_bad = -1, max_at = 0;
  double aa = 0, bb = 0, ab = 0, dd = 0, steps = 0, max = -1;
};

// Values [begin, begin + count) with whole blocks around them decoded; `steps` as well where wanted.
class Reader {
 public:
  // steps_count: how much of a step is still open (see MeasureWeights).
  Reader(const NamedWeight& weight, double add, double steps_count = 1)
      : weight_(weight), add_(add), steps_count_(steps_count), block_(BlockOf(weight.tensor)) {}

  void Read(std::int64_t begin, std::int64_t count, double* out, double* steps) {
    const std::int64_t from = begin / block_ * block_,
                       to = std::min((begin + count + block_ - 1) / block_ * block_, weight_.tensor.size());
    values_.resize(static_cast<std::size_t>(to - from));
    steps_.resize(values_.size());
    DecodeF32(weight_.tensor, from, to - from, values_.data());
    SpreadsOf(weight_.tensor, from, to - from, values_.data(), steps_.data());
    const double factor = weight_.factor, size = std::fabs(factor) * steps_count_;
    for (std::int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(begin - from + i);
      out[i] = values_[at] * factor + add_;
      steps[i] = steps_[at] * size;
    }
  }

 private:
  // kTernaryRows keeps four rows in a byte and decodes any range.
  static std::int64_t BlockOf(const TensorView& tensor) {
    return tensor.dtype == DType::kTernaryRows ? 1 : Info(tensor.dtype).block_elements;
  }
  const NamedWeight& weight_;
  double add_, steps_count_;
  std::int64_t block_;
  std::vector<float> values_, steps_;
};

// How to tell a run of values that is no rounding of the other's.
enum class GroupRule { kScalars, kBlocks, kTernary };

GroupRule RuleFor(DType a, DType b) {
  if (IsTernary(a) || IsTernary(b)) return GroupRule::kTernary;
  return IsBlockQuantised(a) || IsBlockQuantised(b) ? GroupRule::kBlocks : GroupRule::kScalars;
}

bool IsBad(GroupRule rule, double error, double step, double aa, double ab, double bb) {
  // Three codes a block are so coarse that a step says nothing. But rounding to the nearest of them keeps the sign and takes
  // no value to more than twice itself: the product is at least half the square.
  if (rule == GroupRule::kTernary) return bb > 0 && !(ab >= 0.499 * bb);
  // Quantisers that search may cut off an outlier, by many steps; but what a block holds is still the weights.
  return error > step && (rule == GroupRule::kScalars || error > 0.5 * aa);
}

void AddGroup(const double* a, const double* b, const double* step_a, const double* step_b, std::int64_t n,
              std::int64_t flat, GroupRule rule, Sums& sums) {
  double error = 0, step = 0, aa = 0, ab = 0, bb = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double x = a[i], y = b[i];
    if (!std::isfinite(x) || !std::isfinite(y)) {
      const bool same = x == y || (std::isnan(x) && std::isnan(y));
      sums.exact += same;
      sums.nonfinite += !same;
      continue;
    }
    const double d = y - x, s = step_a[i] * step_a[i] + step_b[i] * step_b[i];
    ++sums.values;
    sums.exact += x == y;
    aa += x * x;
    bb += y * y;
    ab += x * y;
    error += d * d;
    step += s;
    if (std::fabs(d) > sums.max) {
      sums.max = std::fabs(d);
      sums.max_at = flat + i;
    }
  }
  sums.aa += aa;
  sums.bb += bb;
  sums.ab += ab;
  sums.dd += error;
  sums.steps += step;
  ++sums.groups;
  if (!IsBad(rule, error, step, aa, ab, bb)) return;
  ++sums.bad;
  if (sums.first_bad < 0) sums.first_bad = flat / kGroup;
}

}  // namespace

bool IsTernary(DType dtype) { return dtype == DType::kTQ1_0 || dtype == DType::kTQ2_0 || dtype == DType::kI2_S; }

Matrix2 MatrixOf(const TensorView& tensor, bool vector_is_column) {
  const std::int64_t size = tensor.size();
  if (tensor.shape.size() < 2) return vector_is_column ? Matrix2{size, 1} : Matrix2{size > 0 ? 1 : 0, size};
  const std::int64_t columns = tensor.shape.back();
  return {columns > 0 ? size / columns : 0, columns};
}

std::int64_t SourceRow(const WeightMapping& mapping, std::int64_t row) {
  if (mapping.head_dim == 0) return row;
  const std::int64_t head = row / mapping.head_dim * mapping.head_dim, lane = row % mapping.head_dim,
                     half = mapping.head_dim / 2;
  return head + (mapping.to_interleaved ? lane % 2 * half + lane / 2 : lane % half * 2 + lane / half);
}

WeightStats MeasureWeights(const NamedWeight& reference, const NamedWeight& subject, const WeightMapping& mapping,
                           const std::function<void(std::int64_t)>& done) {
  const Matrix2 matrix = MatrixOf(subject.tensor, mapping.head_dim > 0);
  const GroupRule rule = RuleFor(reference.tensor.dtype, subject.tensor.dtype);
  // What has three values on both sides was not rounded in between, but for its scale, to f16.
  const auto has_three = [](DType type) { return IsTernary(type) || type == DType::kTernaryRows; };
  const double open_steps = has_three(reference.tensor.dtype) && has_three(subject.tensor.dtype) ? 0x1p-10 : 1;
  const std::int64_t rows_a_chunk = std::max<std::int64_t>(1, kChunkValues / std::max<std::int64_t>(1, matrix.columns));
  std::vector<Sums> chunks(static_cast<std::size_t>((matrix.rows + rows_a_chunk - 1) / rows_a_chunk));
  ParallelFor(matrix.rows, rows_a_chunk, [&](std::int64_t begin, std::int64_t end) {
    Sums& sums = chunks[static_cast<std::size_t>(begin / rows_a_chunk)];
    Reader from(reference, mapping.add, open_steps), to(subject, 0, open_steps);
    // A long vector is one row: it is read in pieces, whatever its length.
    const std::int64_t piece = std::min(matrix.columns, kChunkValues);
    std::vector<double> a(static_cast<std::size_t>(piece)), b(a.size()), step_a(a.size()), step_b(a.size());
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t source = SourceRow(mapping, row);
      for (std::int64_t column = 0; column < matrix.columns; column += piece) {
        const std::int64_t n = std::min(piece, matrix.columns - column);
        from.Read(source * matrix.columns + column, n, a.data(), step_a.data());
        to.Read(row * matrix.columns + column, n, b.data(), step_b.data());
        for (std::int64_t i = 0; i < n; i += kGroup) {
          AddGroup(a.data() + i, b.data() + i, step_a.data() + i, step_b.data() + i, std::min(kGroup, n - i),
                   row * matrix.columns + column + i, rule, sums);
        }
      }
    }
    if (done) done((end - begin) * matrix.columns);
  });
  Sums total;
  for (const Sums& sums : chunks) {
    total.values += sums.values;
    total.exact += sums.exact;
    total.nonfinite += sums.nonfinite;
    total.groups += sums.groups;
    total.bad += sums.bad;
    if (total.first_bad < 0) total.first_bad = sums.first_bad;
    total.aa += sums.aa;
    total.bb += sums.bb;
    total.ab += sums.ab;
    total.dd += sums.dd;
    total.steps += sums.steps;
    if (sums.max > total.max) {
      total.max = sums.max;
      total.max_at = sums.max_at;
    }
  }
  const double n = std::max<double>(1, static_cast<double>(total.values));
  const double both = std::sqrt(total.aa) * std::sqrt(total.bb);
  return {.values = total.values,
          .exact = total.exact,
          .nonfinite = total.nonfinite,
          .rms_reference = std::sqrt(total.aa / n),
          .rms_subject = std::sqrt(total.bb / n),
          .rms_error = std::sqrt(total.dd / n),
          .max_abs = std::max(total.max, 0.0),
          .max_abs_at = total.max_at,
          .slope = total.aa > 0 ? total.ab / total.aa : 1,
          .correlation = both > 0 ? total.ab / both : 0,
          .share = total.bb > 0 ? total.ab / total.bb : 1,
          .has_bound = HasSteps(reference.tensor.dtype) && HasSteps(subject.tensor.dtype),
          .expected_rms = std::sqrt(total.steps / n / 12),
          .half_step_rms = std::sqrt(total.steps / n / 4),
          .groups = total.groups,
          .bad_groups = total.bad,
          .first_bad_group = total.first_bad};
}

std::vector<double> DecodeRows(const NamedWeight& weight, const Matrix2& matrix, const std::vector<std::int64_t>& rows,
                               std::vector<double>* steps) {
  const auto columns = static_cast<std::size_t>(matrix.columns);
  std::vector<double> values(rows.size() * columns), own_steps(values.size());
  Reader reader(weight, 0);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    reader.Read(rows[i] * matrix.columns, matrix.columns, values.data() + i * columns, own_steps.data() + i * columns);
  }
  if (steps != nullptr) *steps = std::move(own_steps);
  return values;
}

}  // namespace paritrace
