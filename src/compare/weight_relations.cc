#include "compare/weight_relations.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <set>

#include <fmt/format.h>

#include "compare/relations.h"
#include "core/decode.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kRows = 32, kMostValues = 1 << 21, kMostMatched = 1 << 16, kMatchedColumns = 64;

std::string RoleOf(const NamedWeight& weight) {
  return weight.role.ends_with(".bias") ? weight.role.substr(0, weight.role.size() - 5) : weight.role;
}

// What of `id` holds for the kind of weight.
std::string ScaleId(const std::string& role) {
  if (IsNormRole(role)) return "norm.weight_scale";
  return role == "embed" ? "embed.scale" : "linear.weight_scale";
}

class Search {
 public:
  explicit Search(const WeightQuestion& question) : q_(question) {
    matrix_ = MatrixOf(q_.subject.tensor, q_.mapping.head_dim > 0);
    const std::int64_t most = std::max<std::int64_t>(1, kMostValues / std::max<std::int64_t>(1, matrix_.columns));
    const std::int64_t count = std::min({matrix_.rows, kRows, most});
    for (std::int64_t i = 0; i < count; ++i) rows_.push_back(count == 1 ? 0 : i * (matrix_.rows - 1) / (count - 1));
    if (matrix_.rows == 0 || matrix_.columns > kMostValues) rows_.clear();
    ternary_ = IsTernary(q_.subject.tensor.dtype);
    subject_ = DecodeRows(q_.subject, matrix_, rows_, ternary_ ? &steps_ : nullptr);
    for (double& y : subject_) y = std::isfinite(y) ? y : 0;
    for (const double y : subject_) energy_ += y * y;
    // What may be left where everything is explained: the rounding of both types, and a little for sums.
    const double rms = std::max(q_.stats.rms_subject, 1e-300);
    noise_ = q_.stats.has_bound ? std::max(4 * std::pow(q_.stats.half_step_rms / rms, 2), 1e-12) : 1;
  }

  WeightAnswer Run() {
    if (q_.stats.nonfinite > 0) {
      return Answer("nonfinite", 0, "unknown", 0.9,
                    fmt::format("{} of {} values are NaN or infinite on one side only", q_.stats.nonfinite,
                                q_.stats.values + q_.stats.nonfinite),
                    "look for an overflow of the type, or for torn bytes", nullptr, nullptr,
                    {{"values", q_.stats.nonfinite}});
    }
    if (const auto plain = Constant()) return *plain;
    if (rows_.empty() || energy_ == 0) return Unknown();
    if (q_.same_shape) {
      const std::vector<double> expected = Expected(q_.reference, q_.mapping);
      plain_ = Left(expected);
      if (const auto found = Truncated(expected)) return *found;
      if (const auto found = Scaled(expected)) return *found;
      if (const auto found = Shifted(expected)) return *found;
      if (const auto found = Reordered()) return *found;
      if (const auto found = AnotherWeight()) return *found;
      if (const auto found = RowShift()) return *found;
    }
    if (const auto found = Transposed()) return *found;
    if (q_.same_shape) {
      if (const auto found = Permuted()) return *found;
      if (const auto found = Unrelated()) return *found;
      if (const auto found = Local()) return *found;
    }
    return Unknown();
  }

 private:
  // nmse of a prediction of the sampled rows.
  double Left(const std::vector<double>& predicted) const {
    double error = 0;
    for (std::size_t i = 0; i < predicted.size(); ++i) {
      const double d = subject_[i] - Stored(predicted[i], i);
      error += std::isfinite(d) ? d * d : subject_[i] * subject_[i];
    }
    return error / energy_;
  }
  // What a file of three codes would hold of a value: only after that can the two be told to agree.
  double Stored(double value, std::size_t at) const {
    if (!ternary_ || !(steps_[at] > 0)) return value;
    return std::clamp(std::round(value / steps_[at]), -1.0, 1.0) * steps_[at];
  }
  // Explained: nothing but rounding is left, and that is little of what there was.
  bool Explains(double left) const { return left <= noise_ && left <= 0.2 && left * 4 <= plain_; }

  std::vector<double> Expected(const NamedWeight& weight, const WeightMapping& mapping,
                               std::int64_t row_shift = 0) const {
    std::vector<std::int64_t> sources;
    for (const std::int64_t row : rows_) {
      sources.push_back(std::clamp<std::int64_t>(SourceRow(mapping, row) + row_shift, 0, matrix_.rows - 1));
    }
    std::vector<double> values = DecodeRows(weight, matrix_, sources);
    for (double& x : values) x = std::isfinite(x) ? x + mapping.add : 0;
    return values;
  }

  WeightAnswer Answer(const char* kind, double left, const std::string& id, double confidence, std::string statement,
                      std::string fix, Json expected = nullptr, Json found = nullptr,
                      Json more = Json::object()) const {
    Json relation = {{"kind", kind}};
    relation.update(more);
    relation["left_nmse"] = left;
    relation["statement"] = statement;
    return {std::move(relation),
            {.id = id,
             .confidence = confidence,
             .statement = std::move(statement),
             .fix = std::move(fix),
             .expected = std::move(expected),
             .found = std::move(found)}};
  }

  std::optional<WeightAnswer> Constant() const {
    if (q_.subject.tensor.size() < 2) return std::nullopt;
    const std::vector<double> all =
        matrix_.rows * matrix_.columns <= kMostValues ? DecodeAll(q_.subject.tensor) : subject_;
    const auto [low, high] = std::ranges::minmax(all);
    if (!(low == high) || q_.stats.rms_reference == q_.stats.rms_subject) return std::nullopt;
    // Of a large tensor only some rows were looked at: its rms is of all values.
    const double whole = std::fabs(low * q_.subject.factor);
    if (!(std::fabs(q_.stats.rms_subject - whole) <= 1e-6 * whole)) return std::nullopt;
    return Answer("constant", 0, "weights.unloaded", 0.99,
                  fmt::format("all values are {:g}: the weight was never loaded", low * q_.subject.factor),
                  "make the loader fail on names that it does not find", nullptr, low,
                  {{"value", low * q_.subject.factor}});
  }

  std::optional<WeightAnswer> Truncated(const std::vector<double>& expected) const {
    const DType type = q_.subject.tensor.dtype;
    if (type != DType::kBF16 || q_.reference.tensor.dtype == DType::kBF16) return std::nullopt;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(expected[i]));
      if (static_cast<double>(BFloatToFloat(static_cast<std::uint16_t>(bits >> 16))) != subject_[i])
        return std::nullopt;
    }
    return Answer("truncation", 0, "precision", 0.99, "the values are cut off to bf16, not rounded to it",
                  "round to the nearest when converting", "rounding", "truncation", {{"to", "bf16"}});
  }

  std::optional<WeightAnswer> Scaled(const std::vector<double>& expected) const {
    double xx = 0, xy = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      xx += expected[i] * expected[i];
      xy += expected[i] * subject_[i];
    }
    if (xx == 0) return std::nullopt;
    const double factor = xy / xx;
    std::vector<double> scaled = expected;
    for (double& x : scaled) x *= factor;
    const double left = Left(scaled);
    if (!Explains(left) || std::fabs(factor - 1) < 1e-6) return std::nullopt;
    const auto n = static_cast<double>(expected.size());
    const double tolerance = std::max({1e-5, 4 * std::sqrt(left / n), 2 * left});
    std::vector<std::int64_t> widths = {matrix_.columns, matrix_.rows};
    if (q_.head_dim > 0) widths.push_back(q_.head_dim);
    const std::string name = NameFactor(factor, tolerance, widths);
    Json more = {{"factor", factor}};
    if (!name.empty()) more["name"] = name;
    const std::string role = RoleOf(q_.subject);
    return Answer(
        "scale", left, ScaleId(role), 0.98,
        fmt::format("the weight is {:.6g} times the model's{}", factor, name.empty() ? "" : " (" + name + ")"),
        "apply the scale once, or not at all", 1.0, factor, more);
  }

  std::optional<WeightAnswer> Shifted(const std::vector<double>& expected) const {
    double sum = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) sum += subject_[i] - expected[i];
    const double constant = sum / static_cast<double>(expected.size());
    const double whole = std::round(constant);
    const bool by_one = std::fabs(whole) == 1 && std::fabs(constant - whole) < 0.01;
    std::vector<double> shifted = expected;
    for (double& x : shifted) x += by_one ? whole : constant;
    const double left = Left(shifted);
    if (!Explains(left) || expected.size() < 4) return std::nullopt;
    if (by_one && IsNormRole(RoleOf(q_.subject))) {
      return Answer("shift", left, "norm.weight_plus_one", 0.98,
                    whole > 0 ? "the weight is the model's plus one" : "the weight is the model's minus one",
                    "follow the convention of the one that multiplies: w or 1 + w, not both", nullptr, whole,
                    {{"constant", whole}});
    }
    return Answer("shift", left, "unknown", 0.5, fmt::format("the weight is the model's plus {:.6g}", constant), "",
                  nullptr, constant, {{"constant", constant}});
  }

  // The order in which the rows of a head stand: as the two formats should have it, or otherwise.
  std::optional<WeightAnswer> Reordered() const {
    std::set<std::int64_t> widths;
    if (q_.head_dim > 0) {
      widths.insert(q_.head_dim);
    } else {
      for (std::int64_t dim = 4; dim <= std::min<std::int64_t>(matrix_.rows, 512); dim += 2) widths.insert(dim);
    }
    // A vector has its rows along the columns here unless a mapping made it a column: looked at as one.
    if (matrix_.columns == 1 || matrix_.rows == 1) return std::nullopt;
    const bool wanted = q_.mapping.head_dim > 0;
    if (wanted) {
      const double left = Left(Expected(q_.reference, {}));
      if (Explains(left)) {
        return Answer(
            "row_order", left, "linear.permuted", 0.97,
            "the rows of each head stand as they do in the reference; llama.cpp's `llama` wants them interleaved",
            "permute the rows of q and k when converting", nullptr, nullptr,
            {{"from", "half_split"}, {"to", "half_split"}, {"head_dim", q_.mapping.head_dim}});
      }
    }
    for (const std::int64_t dim : widths) {
      if (matrix_.rows % dim != 0 || dim % 2 != 0) continue;
      for (const bool to_interleaved : {true, false}) {
        if (wanted && dim == q_.mapping.head_dim && to_interleaved == q_.mapping.to_interleaved) continue;
        const double left = Left(Expected(q_.reference, {.head_dim = dim, .to_interleaved = to_interleaved}));
        if (!Explains(left)) continue;
        const char* from = to_interleaved ? "half_split" : "interleaved";
        const char* to = to_interleaved ? "interleaved" : "half_split";
        return Answer("row_order", left, "linear.permuted", 0.97,
                      fmt::format("the rows of each head of {} stand in {} order where the reference has them in {}",
                                  dim, to, from),
                      wanted ? "permute by heads of the right width, once" : "leave out the permutation of rows",
                      nullptr, nullptr, {{"from", from}, {"to", to}, {"head_dim", dim}});
      }
    }
    return std::nullopt;
  }

  std::optional<WeightAnswer> AnotherWeight() const {
    for (const NamedWeight& other : q_.others) {
      if (other.name == q_.reference.name || other.tensor.shape != q_.subject.tensor.shape) continue;
      // q and k keep the order that their place asks for; a weight from another place has its own.
      for (const bool mapped : {true, false}) {
        if (mapped && q_.mapping.head_dim == 0 && q_.mapping.add == 0) continue;
        const double left = Left(Expected(other, mapped ? q_.mapping : WeightMapping{}));
        if (!Explains(left)) continue;
        return Named(other, left);
      }
    }
    return std::nullopt;
  }

  WeightAnswer Named(const NamedWeight& other, double left) const {
    const std::string role = RoleOf(q_.subject), its = RoleOf(other);
    const auto pair_is = [&](const char* a, const char* b) {
      return (role == a && its == b) || (role == b && its == a);
    };
    std::string id = "linear.wrong_layer";
    Json found = other.layer >= 0 ? Json(other.layer) : Json(other.name);
    if (IsNormRole(role)) {
      id = "norm.wrong_weight";
    } else if (other.layer == q_.subject.layer && pair_is("mlp.gate", "mlp.up")) {
      id = "mlp.gate_up_swapped";
    } else if (other.layer == q_.subject.layer && pair_is("attn.q", "attn.k")) {
      id = "attn.qk_swapped";
    } else if (other.layer == q_.subject.layer && pair_is("attn.k", "attn.v")) {
      id = "attn.kv_swapped";
    } else if (other.layer == q_.subject.layer && other.expert != q_.subject.expert && role == its) {
      id = "moe.expert_order";
      found = other.expert;
    } else if (role == "logits" && its == "embed") {
      id = "head.untied";
      found = other.name;
    }
    return Answer("other_weight", left, id, 0.98, fmt::format("it holds what the reference calls {}", other.name),
                  "correct the name that the weight is loaded by", nullptr, found,
                  {{"name", other.name}, {"layer", other.layer}});
  }

  std::optional<WeightAnswer> RowShift() const {
    if (matrix_.rows < 8) return std::nullopt;
    for (const std::int64_t by : {-1, 1, -2, 2, -3, 3, -4, 4}) {
      // The sampled rows at the edge have no source.
      const std::vector<double> expected = Expected(q_.reference, q_.mapping, -by);
      double error = 0, energy = 0;
      for (std::size_t i = 0; i < rows_.size(); ++i) {
        const std::int64_t source = SourceRow(q_.mapping, rows_[i]) - by;
        if (source < 0 || source >= matrix_.rows) continue;
        for (std::int64_t c = 0; c < matrix_.columns; ++c) {
          const std::size_t at = i * static_cast<std::size_t>(matrix_.columns) + static_cast<std::size_t>(c);
          const double d = subject_[at] - Stored(expected[at], at);
          error += d * d;
          energy += subject_[at] * subject_[at];
        }
      }
      if (energy <= 0.5 * energy_ || !Explains(error / energy)) continue;
      return Answer(
          "row_shift", error / energy, RoleOf(q_.subject) == "embed" ? "embed.row_offset" : "linear.permuted", 0.97,
          fmt::format("its rows stand {} further {} than the reference's", std::abs(by), by > 0 ? "down" : "up"),
          "start at row 0; look at added and padding rows", 0, by, {{"by", by}});
    }
    return std::nullopt;
  }

  std::optional<WeightAnswer> Transposed() {
    const Shape& shape = q_.reference.tensor.shape;
    if (shape.size() != 2 || shape[0] != matrix_.columns || shape[1] != matrix_.rows) return std::nullopt;
    const Matrix2 source{shape[0], shape[1]};
    std::vector<double> expected(subject_.size());
    for (std::int64_t c = 0; c < source.rows; ++c) {
      const std::vector<double> row = DecodeRows(q_.reference, source, {c});
      for (std::size_t i = 0; i < rows_.size(); ++i) {
        const double x = row[static_cast<std::size_t>(rows_[i])];
        expected[i * static_cast<std::size_t>(matrix_.columns) + static_cast<std::size_t>(c)] =
            std::isfinite(x) ? x : 0;
      }
    }
    if (!q_.same_shape) plain_ = INFINITY;
    // Without the statistics of a common shape the bound is that of a coarse type.
    const double left = Left(expected);
    if (!q_.same_shape ? !(left <= 0.2) : !Explains(left)) return std::nullopt;
    return Answer("transposed", left, "linear.transposed", 0.98, "the matrix is the reference's transposed",
                  "transpose on loading, or leave out one transposition");
  }

  // Any order of rows: each sampled row is looked for among all.
  std::optional<WeightAnswer> Permuted() const {
    if (matrix_.rows < 4 || matrix_.rows > kMostMatched || matrix_.columns < 8) return std::nullopt;
    const auto columns = static_cast<std::size_t>(matrix_.columns);
    const auto few = std::min<std::size_t>(columns, kMatchedColumns);
    std::vector<double> best(rows_.size(), INFINITY);
    std::vector<std::int64_t> source(rows_.size(), -1);
    for (std::int64_t r = 0; r < matrix_.rows; ++r) {
      const std::vector<double> row = DecodeRows(q_.reference, matrix_, {r});
      for (std::size_t i = 0; i < rows_.size(); ++i) {
        double error = 0;
        for (std::size_t c = 0; c < few && error < best[i]; ++c) {
          const double d = subject_[i * columns + c] - row[c] - q_.mapping.add;
          error += d * d;
        }
        if (error < best[i]) {
          best[i] = error;
          source[i] = r;
        }
      }
    }
    const std::set<std::int64_t> distinct(source.begin(), source.end());
    if (distinct.size() != source.size() || distinct.contains(-1)) return std::nullopt;
    std::vector<double> expected = DecodeRows(q_.reference, matrix_, source);
    for (double& x : expected) x += q_.mapping.add;
    const double left = Left(expected);
    if (!Explains(left)) return std::nullopt;
    bool by_heads = q_.head_dim > 0;
    for (std::size_t i = 0; i < source.size() && by_heads; ++i) {
      by_heads = source[i] % q_.head_dim == SourceRow(q_.mapping, rows_[i]) % q_.head_dim;
    }
    Json pairs = Json::array();
    for (std::size_t i = 0; i < std::min<std::size_t>(source.size(), 8); ++i) pairs.push_back({rows_[i], source[i]});
    return Answer("row_permutation", left, "linear.permuted", 0.95,
                  by_heads ? fmt::format("the reference's heads of {} rows stand in another order", q_.head_dim)
                           : fmt::format("the reference's rows in another order: row {} is its row {}", rows_.back(),
                                         source.back()),
                  "undo the permutation", nullptr, nullptr, {{"rows", pairs}});
  }

  std::optional<WeightAnswer> Unrelated() const {
    const auto n = static_cast<double>(q_.stats.values);
    // Six standard deviations of the cosine of two independent weights.
    if (n < 64 || !(std::fabs(q_.stats.correlation) * std::sqrt(n) < 6)) return std::nullopt;
    double sum = 0, square = 0, fourth = 0;
    for (const double y : subject_) sum += y;
    const double mean = sum / static_cast<double>(subject_.size());
    for (const double y : subject_) {
      const double d = (y - mean) * (y - mean);
      square += d;
      fourth += d * d;
    }
    const double count = static_cast<double>(subject_.size()), variance = square / count;
    const double kurtosis = variance > 0 ? fourth / count / (variance * variance) : 0;
    const char* looks = kurtosis < 2.1 ? "evenly spread" : kurtosis < 3.5 ? "normally distributed" : "with heavy tails";
    return Answer(
        "unrelated", plain_, "weights.unloaded", 0.8,
        fmt::format("it shares nothing with the model's weight (correlation {:.2g} over {} values) nor with another: "
                    "rms {:.4g}, mean {:.2g}, {}, as if it were never loaded",
                    q_.stats.correlation, q_.stats.values, q_.stats.rms_subject, mean, looks),
        "make the loader fail on names that it does not find", nullptr, nullptr,
        {{"correlation", q_.stats.correlation}, {"kurtosis", kurtosis}});
  }

  std::optional<WeightAnswer> Local() const {
    const WeightStats& s = q_.stats;
    if (s.bad_groups == 0 || s.bad_groups * 4 > s.groups) return std::nullopt;
    const std::int64_t row = s.first_bad_group * 256 / std::max<std::int64_t>(1, matrix_.columns);
    return Answer(
        "local", plain_, "unknown", 0.5,
        fmt::format(
            "{} of {} runs of 256 values are off by more than a step of the type, first in row {}; the rest is right",
            s.bad_groups, s.groups, row),
        "look for overwritten or torn bytes there", nullptr, nullptr, {{"groups", s.bad_groups}, {"first_row", row}});
  }

  WeightAnswer Unknown() const {
    return Answer(
        "none", std::isfinite(plain_) ? plain_ : 0, "unknown", 0.3,
        q_.same_shape
            ? fmt::format("another weight than the model's (correlation {:.4f}), and no known mistake makes it",
                          q_.stats.correlation)
            : "a weight of another shape",
        "");
  }

  const WeightQuestion& q_;
  Matrix2 matrix_;
  std::vector<std::int64_t> rows_;
  std::vector<double> subject_;
  std::vector<double> steps_;  // where ternary_
  bool ternary_ = false;
  double energy_ = 0, noise_ = 0, plain_ = INFINITY;
};

}  // namespace

WeightAnswer ExplainWeight(const WeightQuestion& question) { return Search(question).Run(); }

}  // namespace paritrace
