// The comparison written as plainly as it can be: one value after the other, in long double. Slow on purpose: it is what
// the kernels and the merging of pair_stats.cc are tested against, so it shares none of their code.
#include <cmath>
#include <vector>

#include "compare/pair_stats.h"
#include "core/decode.h"

namespace paritrace {
namespace {

std::vector<long double> AllValues(const TensorView& tensor) {
  std::vector<long double> values(static_cast<std::size_t>(tensor.size()));
  if (tensor.dtype == DType::kI64 || tensor.dtype == DType::kU64) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      std::uint64_t bits;
      __builtin_memcpy(&bits, tensor.bytes.data() + 8 * i, 8);
      values[i] = tensor.dtype == DType::kU64 ? static_cast<long double>(bits)
                                              : static_cast<long double>(static_cast<std::int64_t>(bits));
    }
    return values;
  }
  const std::vector<double> decoded = DecodeAll(tensor);
  values.assign(decoded.begin(), decoded.end());
  return values;
}

struct WideSums {
  long double abs = 0, rr = 0, ss = 0, rs = 0, dd = 0;
};

CarriedSum ToSum(long double wide) {
  const auto high = static_cast<double>(wide);
  return {high, std::isfinite(high) ? static_cast<double>(wide - static_cast<long double>(high)) : 0};
}

}  // namespace

PairComparison ComparePairReference(const TensorView& reference, const TensorView& subject, const PairLayout& layout) {
  const std::vector<long double> all_r = AllValues(reference), all_s = AllValues(subject);
  PairComparison result;
  result.positions.resize(static_cast<std::size_t>(layout.rows));
  std::vector<WideSums> rows(result.positions.size());
  WideSums sums;
  PairStats& total = result.total;
  for (std::int64_t index = 0; index < layout.Count(); ++index) {
    const auto row = static_cast<std::size_t>(index / layout.inner % layout.rows);
    PositionStats& position = result.positions[row];
    const long double r = all_r[static_cast<std::size_t>(layout.ReferenceIndex(index))];
    const long double s = all_s[static_cast<std::size_t>(layout.SubjectIndex(index))];
    const bool r_masked = layout.masked_scores && r <= MaskBound(reference.dtype),
               s_masked = layout.masked_scores && s <= MaskBound(subject.dtype);
    ++total.count;
    if (r_masked && s_masked) {
      ++total.masked;
      ++total.equal;
      continue;
    }
    if (!r_masked && !s_masked && std::isfinite(r) && std::isfinite(s)) {
      const long double difference = r - s;
      const auto magnitude = static_cast<double>(std::fabs(difference));
      if (r == s)
        ++total.equal;
      else
        ++position.unequal;
      if (magnitude > total.max_abs) {
        total.max_abs = magnitude;
        total.max_abs_at = index;
        total.max_reference = static_cast<double>(r);
        total.max_subject = static_cast<double>(s);
      }
      if (magnitude > position.max_abs) position.max_abs = magnitude;
      for (WideSums* to : {&sums, &rows[row]}) {
        to->abs += std::fabs(difference);
        to->rr += r * r;
        to->ss += s * s;
        to->rs += r * s;
        to->dd += difference * difference;
      }
      continue;
    }
    ++total.unmeasured;
    const bool r_inf = std::isinf(r) && !r_masked, s_inf = std::isinf(s) && !s_masked;
    if (std::isnan(r)) ++total.nan_reference;
    if (std::isnan(s)) ++total.nan_subject;
    if (std::isnan(r) || std::isnan(s)) ++total.nan_either;
    if (r_inf) ++total.inf_reference;
    if (s_inf) ++total.inf_subject;
    if (r_inf || s_inf) ++total.inf_either;
    if (r == s || (std::isnan(r) && std::isnan(s))) {
      ++total.equal;
    } else {
      ++total.mismatches;
      ++position.mismatches;
      ++position.unequal;
      if (total.first_mismatch < 0) total.first_mismatch = index;
    }
  }
  total.abs = ToSum(sums.abs);
  total.rr = ToSum(sums.rr);
  total.ss = ToSum(sums.ss);
  total.rs = ToSum(sums.rs);
  total.dd = ToSum(sums.dd);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    result.positions[i].rr = static_cast<double>(rows[i].rr);
    result.positions[i].ss = static_cast<double>(rows[i].ss);
    result.positions[i].rs = static_cast<double>(rows[i].rs);
    result.positions[i].dd = static_cast<double>(rows[i].dd);
  }
  return result;
}

}  // namespace paritrace
