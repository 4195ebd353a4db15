#include "diagnose/site_stats.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace paritrace {
namespace {

double Share(std::int64_t part, std::int64_t whole) {
  return whole == 0 ? 1.0 : static_cast<double>(part) / static_cast<double>(whole);
}

// Roundings of about the result's size that an f32 kernel makes on the way to it, besides its sums. One sample of them may
// be exact by luck, and in a norm or a softmax a whole row shares most of them: their expected square keeps the floor up.
double RoundingsOf(const Node& node, Rounding storage) {
  if (storage != Rounding::kF32) return 1;                      // coarser results round far more than the f32 inside
  if (std::holds_alternative<NormOp>(node.op)) return 4;        // mean square, reciprocal root, two products
  if (std::holds_alternative<SoftmaxOp>(node.op)) return 4;     // difference, exponential, sum, quotient
  if (std::holds_alternative<ActivationOp>(node.op)) return 4;  // exponential or error function, sum, quotient, product
  if (std::holds_alternative<RopeOp>(node.op)) return 3;        // cosine or sine, product, sum
  if (std::holds_alternative<ScoresOp>(node.op)) return 2;      // dot, scale
  if (std::holds_alternative<PoolOp>(node.op)) return 2;        // sum, quotient
  if (std::holds_alternative<UnitOp>(node.op)) return 3;        // squares' sum, root, quotient
  return 1;
}

// Engines take the angle position * frequency in f32, each with a power, a product and a scaling of its own: two roundings of
// the angle on average, whatever the sample's were. Far from the start that is more than the rounding of the result.
class AngleNoise {
 public:
  AngleNoise(const Node& node, const Arithmetic& arithmetic) {
    const auto* op = std::get_if<RopeOp>(&node.op);
    if (op == nullptr || arithmetic.inner != Rounding::kF32) return;
    op_ = op;
    for (std::int64_t i = 0; i < op->rotary_dim / 2; ++i) {
      const double factor = op->frequency_factors.empty() ? 1.0 : op->frequency_factors[static_cast<std::size_t>(i)];
      frequencies_.push_back(
          std::pow(op->theta, -2.0 * static_cast<double>(i) / static_cast<double>(op->exponent_dim)) *
          op->position_scale / factor);
    }
  }
  // Expected square of the error at lane `channel` of a row, from its partner's value.
  [[nodiscard]] double At(std::int64_t position, std::int64_t channel, std::span<const double> row) const {
    if (op_ == nullptr) return 0;
    const std::int64_t lane = channel % op_->head_dim, half = op_->rotary_dim / 2;
    if (lane >= op_->rotary_dim) return 0;
    const bool split = op_->pairing == RopePairing::kHalfSplit;
    const std::int64_t pair = split ? lane % half : lane / 2;
    const std::int64_t partner = channel - lane + (split ? (lane + half) % op_->rotary_dim : lane ^ 1);
    const double half_ulp =
        HalfUlp(Rounding::kF32, static_cast<double>(position) * frequencies_[static_cast<std::size_t>(pair)]);
    const double other = row[static_cast<std::size_t>(partner)];
    return 2 * half_ulp * half_ulp / 3 * other * other;
  }

 private:
  const RopeOp* op_ = nullptr;
  std::vector<double> frequencies_;
};

double Relative(double part, double whole) {
  return part == 0 ? 0.0 : whole == 0 ? std::numeric_limits<double>::infinity() : part / whole;
}

}  // namespace

double ErrorSums::ratio() const {
  if (broken > 0) return std::numeric_limits<double>::infinity();
  return error == 0 ? 0.0 : std::sqrt(Relative(error, floor()));
}

double SiteStats::introduced_nmse() const { return Relative(all.error, signal); }
double SiteStats::floor_nmse() const { return Relative(all.floor(), signal); }
double SiteStats::left_nmse() const { return Relative(left, signal); }
double SiteStats::propagated_nmse() const { return Relative(propagated, free_signal); }
double SiteStats::exact_share() const { return Share(exact, all.count); }
double SiteStats::one_ulp_share() const { return Share(one_ulp, all.count); }

std::int64_t HeadWidth(const Graph& graph, const Node& node) {
  if (const auto* rope = std::get_if<RopeOp>(&node.op)) return rope->head_dim;
  if (const auto* context = std::get_if<ContextOp>(&node.op)) return context->head_dim;
  if (std::holds_alternative<NormOp>(node.op)) return std::get<NormOp>(node.op).group;
  for (const NodeId user : graph.UsersOf(node.id)) {
    const Node& next = graph.nodes[static_cast<std::size_t>(user)];
    if (const auto* rope = std::get_if<RopeOp>(&next.op)) return rope->head_dim;
    if (const auto* context = std::get_if<ContextOp>(&next.op))
      return next.inputs[1] == node.id ? context->head_dim : 0;
    if (const auto* norm = std::get_if<NormOp>(&next.op); norm != nullptr && norm->group > 0) return norm->group;
  }
  return 0;
}

SiteStats MeasureSite(const Graph& graph, const Node& node, const RecordedSite& recorded, const Replayed& replayed,
                      const Value* free, const Arithmetic& arithmetic, TokenRange range,
                      std::vector<ErrorSums>* by_cell) {
  SiteStats stats;
  if (replayed.exact.shape != recorded.value.shape) {  // a vector of another width: nothing in it can be compared
    stats.all.count = stats.all.broken = recorded.value.rows() * recorded.value.cols();
    return stats;
  }
  if (free != nullptr && free->shape != recorded.value.shape) free = nullptr;  // another number of experts
  const bool scores = IsScoreShaped(node);
  const std::int64_t tokens = static_cast<std::int64_t>(recorded.token_known.size()), cols = recorded.value.cols();
  const std::int64_t head_width = scores ? 0 : HeadWidth(graph, node);
  stats.by_token.resize(static_cast<std::size_t>(tokens));
  stats.by_channel.resize(scores ? 0 : static_cast<std::size_t>(cols));
  stats.by_head.resize(static_cast<std::size_t>(scores           ? recorded.value.shape[0]
                                                : head_width > 0 ? cols / head_width
                                                                 : 0));
  if (by_cell != nullptr) by_cell->assign(stats.by_head.size() * static_cast<std::size_t>(tokens), {});
  const Rounding storage = StorageOf(node, arithmetic);
  const double roundings = RoundingsOf(node, storage);
  const AngleNoise angle(node, arithmetic);
  for (std::int64_t r = 0; r < recorded.value.rows(); ++r) {
    const std::int64_t t = scores ? r % tokens : r;
    if (t < range.begin || t >= range.end || !recorded.token_known[static_cast<std::size_t>(t)]) continue;
    const auto row = recorded.value.row(r);
    // A query that is not finite spoils its masked scores as well, in engines that add the mask.
    if (scores && std::ranges::any_of(replayed.exact.row(r), [](double f) { return std::isnan(f); })) {
      stats.unjudged += cols;
      continue;
    }
    for (std::int64_t c = 0; c < cols; ++c) {
      const auto i = static_cast<std::size_t>(r * cols + c);
      const double x = row[static_cast<std::size_t>(c)], f = replayed.exact.data[i];
      const double p = replayed.predicted.data[i], s = replayed.sampled.data[i];
      // The upper triangle of scores is masked on both sides and says nothing.
      if (scores && ((std::isinf(f) && x == f) || (f == 0 && x == 0 && p == 0))) continue;
      ErrorSums value{.count = 1};
      if (std::isnan(f) || (std::isinf(f) && !scores)) {
        ++stats.unjudged;
        continue;
      }
      if (!std::isfinite(x) || std::isinf(f)) {
        value.broken = 1;
      } else {
        const double e = x - f, n = s - f, half = HalfUlp(storage, f), l = x - p, o = s - p;
        value.error = e * e;
        value.sampled = n * n;
        value.rounding = roundings * half * half / 3 + angle.At(t, c, replayed.exact.row(r)) +
                         node.doubt * node.doubt * f * f;  // uniform over half a ULP: a third of its square on average
        stats.left += l * l;
        stats.order += o * o + (storage == Rounding::kF32 ? half * half / 3 : 0);
        stats.signal += f * f;
        const double ulps = UlpDistance(storage, x, p);
        stats.exact += ulps == 0 ? 1 : 0;
        stats.one_ulp += ulps <= 1 ? 1 : 0;
        if (free != nullptr && std::isfinite(free->data[i])) {
          stats.propagated += (f - free->data[i]) * (f - free->data[i]);
          stats.free_signal += free->data[i] * free->data[i];
        }
      }
      const auto add = [&](ErrorSums& group) {
        group.error += value.error;
        group.sampled += value.sampled;
        group.rounding += value.rounding;
        group.count += value.count;
        group.broken += value.broken;
      };
      add(stats.all);
      add(stats.by_token[static_cast<std::size_t>(t)]);
      if (!stats.by_channel.empty()) add(stats.by_channel[static_cast<std::size_t>(c)]);
      if (stats.by_head.empty()) continue;
      const std::int64_t head = scores ? r / tokens : c / head_width;
      add(stats.by_head[static_cast<std::size_t>(head)]);
      if (by_cell != nullptr) add((*by_cell)[static_cast<std::size_t>(head * tokens + t)]);
    }
  }
  return stats;
}

}  // namespace paritrace
