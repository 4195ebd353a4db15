#include "compare/relations.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <fmt/format.h>

#include "core/decode.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kDecisive = 100;  // a relation must leave at most this part of the squared error
constexpr std::int64_t kMostRows = 64, kMostValues = 2 << 20, kMostMatched = 1024;

// Rows as [rows, columns], with heads side by side whatever the layout was.
struct Matrix {
  std::int64_t rows = 0, columns = 0;
  std::vector<double> values;
  [[nodiscard]] const double* Row(std::int64_t row) const { return values.data() + row * columns; }
  [[nodiscard]] double* Row(std::int64_t row) { return values.data() + row * columns; }
  [[nodiscard]] double At(std::int64_t row, std::int64_t column) const {
    return values[static_cast<std::size_t>(row * columns + column)];
  }
};

double Energy(const Matrix& matrix) {
  return std::inner_product(matrix.values.begin(), matrix.values.end(), matrix.values.begin(), 0.0);
}

struct Found {
  int rank;  // simpler first
  double left;
  Json relation;
};

class Search {
 public:
  Search(Matrix reference, Matrix subject) : x_(std::move(reference)), y_(std::move(subject)), energy_(Energy(x_)) {
    double error = 0;
    for (std::size_t i = 0; i < x_.values.size(); ++i) {
      const double d = y_.values[i] - x_.values[i];
      error += d * d;
      row_error_.resize(static_cast<std::size_t>(x_.rows));
      row_error_[i / static_cast<std::size_t>(x_.columns)] += d * d;
    }
    plain_ = error / energy_;
    for (std::int64_t width = 2; width <= std::min<std::int64_t>(x_.columns, 512); ++width) {
      if (x_.columns % width == 0) head_dims_.push_back(width);
    }
  }

  [[nodiscard]] bool IsUseful() const {
    return x_.rows > 0 && x_.columns > 0 && energy_ > 0 && std::isfinite(plain_) && plain_ > 0;
  }

  void Run(const std::vector<std::pair<std::string, Matrix>>& others) {
    TryScaleAndShift();
    TryTokenShift();
    TrySaturation();
    TryRounding();
    TryTokenScale();
    TryChannels();
    for (const auto& [site, matrix] : others) TryOther(site, matrix);
    TryHeadLayouts();
    TryRowOrders();
    TryHeadPermutations();
    TryChannelPermutation();
  }

  [[nodiscard]] std::optional<Json> Best() {
    double least = std::numeric_limits<double>::infinity();
    for (const Found& found : found_) least = std::min(least, found.left);
    // The simplest that leaves hardly more than the best: a permutation of channels contains one of heads, and so on.
    const Found* best = nullptr;
    for (const Found& found : found_) {
      if (found.left > plain_ / kDecisive || found.left > 4 * least + 1e-30) continue;
      if (best == nullptr || found.rank < best->rank || (found.rank == best->rank && found.left < best->left))
        best = &found;
    }
    if (best == nullptr) return Local();
    Json relation = best->relation;
    relation["left_nmse"] = best->left;
    return relation;
  }

 private:
  // nmse of `predicted(row, column)` against the subject, over rows [begin, end). `share`: degrees of freedom that are
  // left after the fit; a fit of one number a row explains that much of anything.
  template <typename F>
  double Left(const F& predicted, std::int64_t begin, std::int64_t end, double share = 1) const {
    double error = 0, energy = 0;
    for (std::int64_t row = begin; row < end; ++row) {
      for (std::int64_t column = 0; column < x_.columns; ++column) {
        const double d = y_.At(row, column) - predicted(row, column);
        error += d * d;
        energy += x_.At(row, column) * x_.At(row, column);
      }
    }
    return energy > 0 ? error / energy / share : std::numeric_limits<double>::infinity();
  }
  template <typename F>
  double Left(const F& predicted) const {
    return Left(predicted, 0, x_.rows);
  }

  void Add(int rank, double left, Json relation, std::string statement) {
    if (!(left <= plain_ / kDecisive)) return;
    relation["statement"] = std::move(statement);
    found_.push_back({rank, left, std::move(relation)});
  }

  void TryScaleAndShift() {
    const auto n = static_cast<double>(x_.values.size());
    double sx = 0, sy = 0, sxx = 0, sxy = 0;
    for (std::size_t i = 0; i < x_.values.size(); ++i) {
      sx += x_.values[i];
      sy += y_.values[i];
      sxx += x_.values[i] * x_.values[i];
      sxy += x_.values[i] * y_.values[i];
    }
    if (n < 4) return;
    const double factor = sxy / sxx;
    const double scaled = Left([&](std::int64_t r, std::int64_t c) { return factor * x_.At(r, c); });
    std::vector<std::int64_t> widths = head_dims_;
    widths.push_back(x_.columns);
    // The factor is known as well as the residual over that many values lets it be.
    const double tolerance = std::max(1e-6, 4 * std::sqrt(scaled / n));
    const std::string name = NameFactor(factor, tolerance, widths);
    Json scale = {{"kind", "scale"}, {"factor", factor}};
    if (!name.empty()) scale["name"] = name;
    Add(1, scaled, std::move(scale),
        fmt::format("the subject is {:.6g} times the reference{}", factor, name.empty() ? "" : " (" + name + ")"));
    const double constant = (sy - sx) / n;
    Add(1, Left([&](std::int64_t r, std::int64_t c) { return x_.At(r, c) + constant; }),
        {{"kind", "shift"}, {"constant", constant}}, fmt::format("the subject is the reference plus {:.6g}", constant));
    const double spread = sxx - sx * sx / n;
    if (spread <= 0) return;
    const double slope = (sxy - sx * sy / n) / spread, offset = (sy - slope * sx) / n;
    Add(3, Left([&](std::int64_t r, std::int64_t c) { return slope * x_.At(r, c) + offset; }),
        {{"kind", "scale_shift"}, {"factor", slope}, {"constant", offset}},
        fmt::format("the subject is {:.6g} times the reference plus {:.6g}", slope, offset));
  }

  void TryTokenShift() {
    for (std::int64_t by = -4; by <= 4; ++by) {
      const std::int64_t begin = std::max<std::int64_t>(0, by), end = std::min(x_.rows, x_.rows + by);
      if (by == 0 || end - begin < 2) continue;
      const double left = Left([&](std::int64_t r, std::int64_t c) { return x_.At(r - by, c); }, begin, end);
      Add(2, left, {{"kind", "token_shift"}, {"by", by}},
          fmt::format("the subject's tokens stand {} further {} than the reference's", std::abs(by),
                      by > 0 ? "on" : "back"));
    }
  }

  void TrySaturation() {
    double limit = 0, largest = 0;
    for (std::size_t i = 0; i < x_.values.size(); ++i) {
      limit = std::max(limit, std::fabs(y_.values[i]));
      largest = std::max(largest, std::fabs(x_.values[i]));
    }
    if (limit >= largest) return;
    Add(2, Left([&](std::int64_t r, std::int64_t c) { return std::clamp(x_.At(r, c), -limit, limit); }),
        {{"kind", "saturation"}, {"limit", limit}}, fmt::format("the subject's values are cut off at {:.6g}", limit));
  }

  // Rounding is deterministic, so it must hold to the bit: for nearly all values, the reference itself being inexact.
  void TryRounding() {
    struct Grid {
      const char* to;
      const char* how;
      double (*round)(double);
    };
    static constexpr Grid kGrids[] = {
        {"bf16", "nearest", [](double v) -> double { return BFloatToFloat(FloatToBFloat(static_cast<float>(v))); }},
        {"bf16", "truncation",
         [](double v) -> double {
           const auto bits = __builtin_bit_cast(std::uint32_t, static_cast<float>(v));
           return BFloatToFloat(static_cast<std::uint16_t>(bits >> 16));
         }},
        {"f16", "nearest", [](double v) -> double { return HalfToFloat(FloatToHalf(static_cast<float>(v))); }},
        {"f32", "nearest", [](double v) -> double { return static_cast<float>(v); }},
    };
    for (const Grid& grid : kGrids) {
      std::size_t exact = 0, moved = 0;
      for (std::size_t i = 0; i < x_.values.size(); ++i) {
        const double rounded = grid.round(x_.values[i]);
        exact += rounded == y_.values[i];
        moved += rounded != x_.values[i];
      }
      const auto n = static_cast<double>(x_.values.size());
      if (static_cast<double>(exact) < 0.99 * n || static_cast<double>(moved) < 0.1 * n) continue;
      Add(0, Left([&](std::int64_t r, std::int64_t c) { return grid.round(x_.At(r, c)); }),
          {{"kind", "rounding"}, {"to", grid.to}, {"how", grid.how}},
          fmt::format("the subject is the reference rounded to {} ({}), equal to the bit in {:.4g} % of the values",
                      grid.to, grid.how, 100 * static_cast<double>(exact) / n));
    }
  }

  void TryTokenScale() {
    if (x_.columns < 8 || x_.rows < 2) return;
    std::vector<double> factors(static_cast<std::size_t>(x_.rows));
    for (std::int64_t r = 0; r < x_.rows; ++r) {
      const double* x = x_.Row(r);
      const double* y = y_.Row(r);
      const double xx = std::inner_product(x, x + x_.columns, x, 0.0),
                   xy = std::inner_product(x, x + x_.columns, y, 0.0);
      factors[static_cast<std::size_t>(r)] = xx > 0 ? xy / xx : 0;
    }
    const double share = 1 - 1 / static_cast<double>(x_.columns);
    Add(4,
        Left([&](std::int64_t r, std::int64_t c) { return factors[static_cast<std::size_t>(r)] * x_.At(r, c); }, 0,
             x_.rows, share),
        {{"kind", "token_scale"}}, "each token of the subject is the reference's times a factor of its own");
  }

  void TryChannels() {
    if (x_.rows < 4) return;
    const auto columns = static_cast<std::size_t>(x_.columns);
    std::vector<double> xx(columns), xy(columns), shift(columns);
    for (std::int64_t r = 0; r < x_.rows; ++r) {
      for (std::size_t c = 0; c < columns; ++c) {
        const double x = x_.Row(r)[c], y = y_.Row(r)[c];
        xx[c] += x * x;
        xy[c] += x * y;
        shift[c] += (y - x) / static_cast<double>(x_.rows);
      }
    }
    const double share = 1 - 1 / static_cast<double>(x_.rows);
    const auto at = [](const std::vector<double>& v, std::int64_t c) { return v[static_cast<std::size_t>(c)]; };
    Add(5, Left([&](std::int64_t r, std::int64_t c) { return x_.At(r, c) + at(shift, c); }, 0, x_.rows, share),
        {{"kind", "channel_shift"}},
        "each channel of the subject is the reference's plus a constant of its own, as a missing or added bias makes "
        "it");
    Add(5,
        Left([&](std::int64_t r, std::int64_t c) { return at(xx, c) > 0 ? at(xy, c) / at(xx, c) * x_.At(r, c) : 0; }, 0,
             x_.rows, share),
        {{"kind", "channel_scale"}},
        "each channel of the subject is the reference's times a factor of its own, as another norm weight makes it");
  }

  void TryOther(const std::string& site, const Matrix& other) {
    const auto at = [&](std::int64_t r, std::int64_t c) { return other.At(r, c); };
    Add(2, Left(at), {{"kind", "other_site"}, {"site", site}},
        fmt::format("the subject holds what the reference has at {}", site));
    Add(3, Left([&](std::int64_t r, std::int64_t c) { return x_.At(r, c) - at(r, c); }),
        {{"kind", "minus_site"}, {"site", site}},
        fmt::format("the subject is the reference minus what the reference has at {}", site));
    Add(3, Left([&](std::int64_t r, std::int64_t c) { return x_.At(r, c) + at(r, c); }),
        {{"kind", "plus_site"}, {"site", site}},
        fmt::format("the subject is the reference plus what the reference has at {}", site));
  }

  // [heads, dim] against [dim, heads] within a row.
  void TryHeadLayouts() {
    for (const std::int64_t dim : head_dims_) {
      const std::int64_t heads = x_.columns / dim;
      if (heads < 2) continue;
      Add(3, Left([&](std::int64_t r, std::int64_t c) { return x_.At(r, c % heads * dim + c / heads); }),
          {{"kind", "head_layout"}, {"from", "[dim, heads]"}, {"to", "[heads, dim]"}, {"heads", heads}},
          fmt::format("within a token the subject holds [{}, {}] where the reference holds [{}, {}]", dim, heads, heads,
                      dim));
    }
  }

  void TryRowOrders() {
    for (const std::int64_t dim : head_dims_) {
      if (dim < 4 || dim % 2 != 0) continue;
      const std::int64_t half = dim / 2;
      const auto add = [&](double left, const char* from, const char* to) {
        Add(3, left, {{"kind", "row_order"}, {"from", from}, {"to", to}, {"head_dim", dim}},
            fmt::format("the subject's channels are in {} order where the reference's are in {}, heads of {}", from, to,
                        dim));
      };
      add(Left([&](std::int64_t r, std::int64_t c) {
            return x_.At(r, c / dim * dim + c % dim % 2 * half + c % dim / 2);
          }),
          "interleaved", "half_split");
      add(Left([&](std::int64_t r, std::int64_t c) {
            return x_.At(r, c / dim * dim + c % dim % half * 2 + c % dim / half);
          }),
          "half_split", "interleaved");
    }
  }

  // For each block of `dim` channels of the subject the reference's nearest; empty if two want the same.
  std::vector<std::int64_t> Match(std::int64_t dim) const {
    const std::int64_t blocks = x_.columns / dim;
    std::vector<std::int64_t> order(static_cast<std::size_t>(blocks));
    std::vector<bool> taken(static_cast<std::size_t>(blocks));
    const std::int64_t rows = std::min<std::int64_t>(x_.rows, 16);
    for (std::int64_t to = 0; to < blocks; ++to) {
      double least = std::numeric_limits<double>::infinity();
      std::int64_t best = 0;
      for (std::int64_t from = 0; from < blocks; ++from) {
        double error = 0;
        for (std::int64_t r = 0; r < rows && error < least; ++r) {
          for (std::int64_t i = 0; i < dim; ++i) {
            const double d = y_.At(r, to * dim + i) - x_.At(r, from * dim + i);
            error += d * d;
          }
        }
        if (error < least) {
          least = error;
          best = from;
        }
      }
      if (taken[static_cast<std::size_t>(best)]) return {};
      taken[static_cast<std::size_t>(best)] = true;
      order[static_cast<std::size_t>(to)] = best;
    }
    return order;
  }

  double LeftInOrder(const std::vector<std::int64_t>& order, std::int64_t dim) const {
    return Left([&](std::int64_t r, std::int64_t c) {
      return x_.At(r, order[static_cast<std::size_t>(c / dim)] * dim + c % dim);
    });
  }

  void TryHeadPermutations() {
    // Large heads first: a permutation of them is one of smaller blocks as well.
    for (auto dim = head_dims_.rbegin(); dim != head_dims_.rend(); ++dim) {
      const std::int64_t heads = x_.columns / *dim;
      if (heads < 2 || heads > kMostMatched) continue;
      const std::vector<std::int64_t> order = Match(*dim);
      if (order.empty() || std::is_sorted(order.begin(), order.end())) continue;
      const double left = LeftInOrder(order, *dim);
      Add(4, left, {{"kind", "head_permutation"}, {"head_dim", *dim}, {"order", order}},
          fmt::format("the subject holds the reference's blocks of {} channels in another order", *dim));
      if (left <= plain_ / kDecisive) return;
    }
  }

  void TryChannelPermutation() {
    if (x_.rows < 2 || x_.columns < 3 || x_.columns > kMostMatched) return;
    const std::vector<std::int64_t> order = Match(1);
    if (order.empty() || std::is_sorted(order.begin(), order.end())) return;
    Json relation = {{"kind", "channel_permutation"}};
    if (order.size() <= 256) relation["order"] = order;
    Add(6, LeftInOrder(order, 1), std::move(relation), "the subject holds the reference's channels in another order");
  }

  // Where nearly all of the error is, if that is little of the tensor.
  std::optional<Json> Local() const {
    const double error = std::accumulate(row_error_.begin(), row_error_.end(), 0.0);
    const auto few = [&](const std::vector<double>& parts, std::size_t most) {
      std::vector<std::int64_t> order(parts.size());
      std::iota(order.begin(), order.end(), 0);
      std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
        return parts[static_cast<std::size_t>(a)] > parts[static_cast<std::size_t>(b)];
      });
      double covered = 0;
      std::vector<std::int64_t> chosen;
      for (const std::int64_t i : order) {
        if (covered >= 0.999 * error || chosen.size() > most) break;
        covered += parts[static_cast<std::size_t>(i)];
        chosen.push_back(i);
      }
      std::sort(chosen.begin(), chosen.end());
      return covered >= 0.999 * error && chosen.size() <= most ? chosen : std::vector<std::int64_t>();
    };
    std::vector<double> channels(static_cast<std::size_t>(x_.columns));
    for (std::int64_t r = 0; r < x_.rows; ++r) {
      for (std::int64_t c = 0; c < x_.columns; ++c) {
        const double d = y_.At(r, c) - x_.At(r, c);
        channels[static_cast<std::size_t>(c)] += d * d;
      }
    }
    const auto list = [](const std::vector<std::int64_t>& numbers) {
      std::string text;
      for (const std::int64_t number : numbers) text += fmt::format("{}{}", text.empty() ? "" : ", ", number);
      return text;
    };
    const auto at_most = [](std::int64_t of) { return static_cast<std::size_t>(std::max<std::int64_t>(1, of / 16)); };
    if (x_.columns >= 4) {
      if (const auto chosen = few(channels, std::min<std::size_t>(at_most(x_.columns), 16)); !chosen.empty()) {
        return Json{{"kind", "local"},
                    {"channels", chosen},
                    {"statement", fmt::format("nearly all of the error is in channel{} {}",
                                              chosen.size() > 1 ? "s" : "", list(chosen))}};
      }
    }
    if (x_.rows >= 4) {
      if (const auto chosen = few(row_error_, std::min<std::size_t>(at_most(x_.rows), 16)); !chosen.empty()) {
        return Json{
            {"kind", "local"},
            {"rows", chosen},
            {"statement", fmt::format("nearly all of the error is in {} of {} tokens", chosen.size(), x_.rows)}};
      }
    }
    return std::nullopt;
  }

  Matrix x_, y_;
  double energy_ = 0, plain_ = 0;
  std::vector<double> row_error_;
  std::vector<std::int64_t> head_dims_;
  std::vector<Found> found_;
};

// Rows [begin, begin + rows) of one side. Masks and values that are no numbers become 0 on both sides, see below.
Matrix Gather(const TensorView& tensor, const PairLayout& layout, const SideLayout& side, std::int64_t begin,
              std::int64_t rows) {
  Matrix matrix{rows, layout.outer * layout.inner, {}};
  matrix.values.resize(static_cast<std::size_t>(rows * matrix.columns));
  // A run of the tensor that holds the whole row of one head, decoded at once; then put in order.
  const std::int64_t block = Info(tensor.dtype).block_elements;
  std::int64_t reach = (layout.inner - 1) * side.inner_stride;
  if (!side.order.empty()) reach = *std::max_element(side.order.begin(), side.order.end()) * side.inner_stride;
  std::vector<double> run(static_cast<std::size_t>(reach + 1 + 2 * block));
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t outer = 0; outer < layout.outer; ++outer) {
      const std::int64_t first = side.base + outer * side.outer_stride + (begin + row) * side.row_stride;
      const std::int64_t from = first / block * block,
                         to = std::min(tensor.size(), (first + reach + block) / block * block);
      DecodeF64(tensor, from, to - from, run.data());
      for (std::int64_t i = 0; i < layout.inner; ++i) {
        const std::int64_t place = side.order.empty() ? i : side.order[static_cast<std::size_t>(i)];
        matrix.Row(row)[outer * layout.inner + i] =
            run[static_cast<std::size_t>(first - from + place * side.inner_stride)];
      }
    }
  }
  return matrix;
}

void TakeOutNonNumbers(Matrix& a, Matrix& b, const PairLayout& layout, DType a_type, DType b_type) {
  for (std::size_t i = 0; i < a.values.size(); ++i) {
    double &x = a.values[i], &y = b.values[i];
    const bool masked = layout.masked_scores && (x <= MaskBound(a_type) || y <= MaskBound(b_type));
    if (masked || !std::isfinite(x) || !std::isfinite(y)) x = y = 0;
  }
}

}  // namespace

std::optional<Json> FindRelation(const RelationQuery& query, const std::vector<OtherTensor>& others) {
  const PairLayout& layout = query.layout;
  const std::int64_t columns = layout.outer * layout.inner;
  if (layout.rows == 0 || columns == 0 || columns > kMostValues) return std::nullopt;
  const std::int64_t rows = std::min({layout.rows, kMostRows, kMostValues / columns});
  const std::int64_t begin = std::clamp<std::int64_t>(query.first_row - 4, 0, layout.rows - rows);
  Matrix x = Gather(query.reference, layout, layout.reference, begin, rows);
  Matrix y = Gather(query.subject, layout, layout.subject, begin, rows);
  TakeOutNonNumbers(x, y, layout, query.reference.dtype, query.subject.dtype);
  std::vector<std::pair<std::string, Matrix>> other_rows;
  for (const OtherTensor& other : others) {
    if (other.tensor->size() != query.reference.size()) continue;
    Matrix matrix = Gather(*other.tensor, layout, layout.reference, begin, rows);
    Matrix same = matrix;
    TakeOutNonNumbers(matrix, same, layout, other.tensor->dtype, other.tensor->dtype);
    other_rows.emplace_back(other.site, std::move(matrix));
  }
  Search search(std::move(x), std::move(y));
  if (!search.IsUseful()) return std::nullopt;
  search.Run(other_rows);
  std::optional<Json> best = search.Best();
  if (best && best->contains("rows")) {
    std::vector<std::int64_t> tokens = (*best)["rows"];
    for (std::int64_t& token : tokens) token += begin;
    best->erase("rows");
    (*best)["tokens"] = tokens;
  }
  return best;
}

std::string NameFactor(double factor, double tolerance, const std::vector<std::int64_t>& widths) {
  const auto is = [&](double value) { return std::fabs(factor - value) <= tolerance * std::fabs(value); };
  const auto signed_name = [&](const std::string& name) { return factor < 0 ? "-" + name : name; };
  const double sign = factor < 0 ? -1 : 1;
  if (is(-1)) return "-1";
  for (const double value : {2.0, 4.0}) {
    if (is(sign * value)) return signed_name(fmt::format("{}", value));
    if (is(sign / value)) return signed_name(fmt::format("1/{}", value));
  }
  for (const std::int64_t width : widths) {
    const auto n = static_cast<double>(width);
    if (is(sign * std::sqrt(n))) return signed_name(fmt::format("sqrt({})", width));
    if (is(sign / std::sqrt(n))) return signed_name(fmt::format("1/sqrt({})", width));
  }
  for (const std::int64_t width : widths) {
    const auto n = static_cast<double>(width);
    if (is(sign * n)) return signed_name(fmt::format("{}", width));
    if (is(sign / n)) return signed_name(fmt::format("1/{}", width));
  }
  return "";
}

}  // namespace paritrace
