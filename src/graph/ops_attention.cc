// Scores, softmax and the weighted sum of V, stored step by step (eager attention) or fused (flash attention).
#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>

#include "core/parallel.h"
#include "graph/ops.h"

namespace paritrace {
namespace {

constexpr double kMasked = -std::numeric_limits<double>::infinity();

// K or V as attention reads it from the cache.
std::vector<double> Cached(const Value& value, const Arithmetic& arithmetic) {
  std::vector<double> cached = value.data;
  RoundAll(arithmetic.kv_cache, cached);
  return cached;
}

// JAX gives a Python number the type of the array that it meets; elsewhere it stays what it is.
double Constant(const Arithmetic& arithmetic, double number) {
  return arithmetic.activation == ActivationKernel::kStoredSteps ? Round(arithmetic.storage, number) : number;
}

// What each query finds in the slots of the cache.
class CacheView {
 public:
  CacheView(const std::vector<CacheRow>& rows, std::int64_t tokens) : tokens_(tokens) {
    for (const CacheRow& row : rows) moved_[row.query * tokens + row.key] = row.source;
  }
  [[nodiscard]] std::int64_t RowAt(std::int64_t query, std::int64_t key) const {
    if (moved_.empty()) return key;
    const auto found = moved_.find(query * tokens_ + key);
    return found == moved_.end() ? key : found->second;
  }

 private:
  std::int64_t tokens_;
  std::unordered_map<std::int64_t, std::int64_t> moved_;
};

// Queries as the product takes them: scaled first where the model says so.
Value ScaledQuery(const ScoresOp& op, const Value& q, const Arithmetic& arithmetic) {
  Value scaled = q;
  if (op.scales_query) {
    const double scale = Constant(arithmetic, op.scale);
    for (double& value : scaled.data) value = Round(arithmetic.storage, value * scale);
  }
  return scaled;
}

// ggml rounds the other operand to the cache's type before the product.
std::vector<double> AgainstCache(const Value& value, const Arithmetic& arithmetic) {
  std::vector<double> rounded = value.data;
  if (arithmetic.is_ggml()) RoundAll(arithmetic.kv_cache, rounded);
  return rounded;
}

double Dot(const double* a, const double* b, std::int64_t n, const Arithmetic& arithmetic) {
  Summer sum(arithmetic.accumulate, arithmetic.At(Step::kSum, Rounding::kNone));
  for (std::int64_t i = 0; i < n; ++i) sum.Add(a[i] * b[i]);
  return sum.sum();
}

double ScaledScore(const ScoresOp& op, double dot, const Arithmetic& arithmetic, SpecialFunction tanh) {
  const Rounding storage = arithmetic.storage;
  double score = Round(arithmetic.At(Step::kDot, storage), dot);
  if (!op.scales_query) score *= Constant(arithmetic, op.scale);
  if (op.softcap > 0) {
    const double cap = Constant(arithmetic, op.softcap);
    score = Round(storage, Round(storage, score) / cap);
    score = Round(storage, tanh != nullptr ? (*tanh)(score) : std::tanh(score)) * cap;
  }
  return Round(arithmetic.At(Step::kOutput, storage), score);
}

}  // namespace

std::int64_t KvHead(std::int64_t head, std::int64_t heads, std::int64_t kv_heads, bool tiled) {
  return tiled ? head % kv_heads : head / (heads / kv_heads);
}

bool IsVisible(const ScoresOp& op, const RunInput& run, std::int64_t query, std::int64_t key) {
  const auto q = static_cast<std::size_t>(query), k = static_cast<std::size_t>(key);
  if (!run.ends.empty() && key >= run.ends[q]) return false;
  const std::int64_t q_position = run.positions[q], k_position = run.positions[k];
  if (op.causal && k_position > q_position + op.mask_offset) return false;
  if (std::ranges::binary_search(op.hidden_keys, k_position) && !(op.own_key_visible && k_position == q_position))
    return false;
  if (op.window <= 0) return true;
  const std::int64_t distance = q_position - k_position;
  return op.causal ? distance < op.window : std::abs(distance) < op.window;
}

Value ComputeScores(const ScoresOp& op, const Value& q, const Value& k, const RunInput& run,
                    const Arithmetic& arithmetic, SpecialFunction tanh) {
  if (op.extra_rope) {
    ScoresOp plain = op;
    plain.extra_rope.reset();
    RopeOp queries = *op.extra_rope, keys = *op.extra_rope;
    queries.heads = op.heads;
    keys.heads = op.kv_heads;
    return ComputeScores(plain, ComputeRope(queries, q, run, arithmetic), ComputeRope(keys, k, run, arithmetic), run,
                         arithmetic, tanh);
  }
  const std::int64_t tokens = run.count();
  const std::vector<double> queries = AgainstCache(ScaledQuery(op, q, arithmetic), arithmetic),
                            keys = Cached(k, arithmetic);
  const CacheView cache(op.cache, tokens);
  Value out({op.heads, tokens, tokens});
  ParallelFor(op.heads * tokens, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t head = r / tokens, t = r % tokens;
      const std::int64_t kv = KvHead(head, op.heads, op.kv_heads, op.tiled_heads);
      const auto row = out.row(r);
      const std::int64_t here = run.positions[static_cast<std::size_t>(t)];
      for (std::int64_t s = 0; s < tokens; ++s) {
        const std::int64_t there = run.positions[static_cast<std::size_t>(s)];
        if (!IsVisible(op, run, t, s)) {
          row[static_cast<std::size_t>(s)] = kMasked;
          continue;
        }
        const std::int64_t source = cache.RowAt(t, s);
        const double dot = source == kAbsent
                               ? 0.0
                               : Dot(queries.data() + t * q.cols() + head * op.head_dim,
                                     keys.data() + source * k.cols() + kv * op.head_dim, op.head_dim, arithmetic);
        double score = ScaledScore(op, dot, arithmetic, tanh);
        if (!op.query_factors.empty())
          score = Round(arithmetic.storage, score * op.query_factors[static_cast<std::size_t>(t)]);
        if (!op.slopes.empty()) {
          const double bias = op.slopes[static_cast<std::size_t>(head)] * static_cast<double>(there - here);
          score = Round(arithmetic.storage, score + Round(arithmetic.storage, bias));
        }
        row[static_cast<std::size_t>(s)] = score;
      }
    }
  });
  return out;
}

namespace {

// Probabilities along one line of scores: `count` values, `stride` apart.
void SoftmaxLine(const SoftmaxOp& op, const double* in, double* to, std::int64_t count, std::int64_t stride,
                 const double* sink, const Arithmetic& arithmetic, SpecialFunction exp) {
  const Rounding inner = arithmetic.inner, output = arithmetic.At(Step::kOutput, arithmetic.storage);
  const auto score = [&](std::int64_t i) {
    return op.temperature == 1 ? in[i * stride] : Round(inner, in[i * stride] * op.temperature);
  };
  double largest = sink != nullptr ? *sink : kMasked;
  for (std::int64_t i = 0; i < count; ++i) {
    const double here = score(i);
    if (std::isnan(here) || here > largest) largest = here;
  }
  Summer sum(arithmetic.reduce);
  for (std::int64_t i = 0; i < count; ++i) {
    const double here = score(i), below = Round(inner, here - largest);
    const double value = here == kMasked ? 0.0 : Round(inner, exp != nullptr ? (*exp)(below) : std::exp(below));
    to[i * stride] = value;
    sum.Add(value);
  }
  if (sink != nullptr) sum.Add(Round(inner, std::exp(Round(inner, *sink - largest))));
  const double total = op.divided ? Round(inner, sum.sum()) : 1.0;
  for (std::int64_t i = 0; i < count; ++i) to[i * stride] = Round(output, Round(inner, to[i * stride] / total));
}

}  // namespace

Value ComputeSoftmax(const SoftmaxOp& op, const Value& scores, const RunInput& run, const Arithmetic& arithmetic,
                     SpecialFunction exp) {
  Value out(scores.shape);
  const std::int64_t cols = scores.cols(), rows = scores.rows();
  const std::int64_t heads = scores.shape.size() == 3 ? scores.shape[0] : 1, queries = heads > 0 ? rows / heads : 0;
  const double* in = scores.data.data();
  double* to = out.data.data();
  switch (op.axis) {
    case SoftmaxAxis::kKeys:
      ParallelFor(rows, 32, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) {
          const double* sink = op.sinks.empty() ? nullptr : &op.sinks[static_cast<std::size_t>(r / queries)];
          SoftmaxLine(op, in + r * cols, to + r * cols, cols, 1, sink, arithmetic, exp);
        }
      });
      break;
    case SoftmaxAxis::kQueries:
      for (std::int64_t h = 0; h < heads; ++h) {
        for (std::int64_t c = 0; c < cols; ++c)
          SoftmaxLine(op, in + h * queries * cols + c, to + h * queries * cols + c, queries, cols, nullptr, arithmetic,
                      exp);
      }
      break;
    case SoftmaxAxis::kHeads:
      for (std::int64_t i = 0; i < queries * cols; ++i) {
        if (in[i] == kMasked) continue;  // hidden for all heads alike
        SoftmaxLine(op, in + i, to + i, heads, queries * cols, nullptr, arithmetic, exp);
      }
      break;
  }
  if (op.mask_after) {
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t s = 0; s < cols; ++s) {
        if (!IsVisible(*op.mask_after, run, r % queries, s)) out.row(r)[static_cast<std::size_t>(s)] = 0;
      }
    }
  }
  return out;
}

Value ComputeContext(const ContextOp& op, const Value& probs, const Value& v, const Arithmetic& arithmetic) {
  const std::int64_t tokens = v.rows();
  const std::vector<double> weights = AgainstCache(probs, arithmetic), values = Cached(v, arithmetic);
  Value out({tokens, op.heads * op.head_dim});
  const CacheView cache(op.cache, tokens);
  const Rounding running = arithmetic.At(Step::kSum, Rounding::kNone),
                 output = arithmetic.At(Step::kOutput, arithmetic.storage);
  ParallelFor(tokens * op.heads, 16, [&](std::int64_t begin, std::int64_t end) {
    std::vector<Summer> sums;
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t t = r / op.heads, head = r % op.heads;
      const std::int64_t kv = KvHead(head, op.heads, op.kv_heads, op.tiled_heads);
      sums.assign(static_cast<std::size_t>(op.head_dim), Summer(arithmetic.accumulate, running));
      const double* row = weights.data() + (head * tokens + t) * tokens;
      for (std::int64_t s = 0; s < tokens; ++s) {
        const std::int64_t source = cache.RowAt(t, s);
        if (row[s] == 0 || source == kAbsent) continue;
        const double* lanes = values.data() + source * v.cols() + kv * op.head_dim;
        for (std::int64_t d = 0; d < op.head_dim; ++d) sums[static_cast<std::size_t>(d)].Add(row[s] * lanes[d]);
      }
      double* to = out.data.data() +
                   (op.heads_outermost ? (head * tokens + t) * op.head_dim : t * out.cols() + head * op.head_dim);
      const std::int64_t stride = op.lanes_outermost ? op.heads : 1;
      if (op.lanes_outermost) to = out.data.data() + t * out.cols() + head;
      for (std::int64_t d = 0; d < op.head_dim; ++d)
        to[d * stride] = Round(output, sums[static_cast<std::size_t>(d)].sum());
    }
  });
  return out;
}

Value ComputeFlashContext(const ScoresOp& scores, const ContextOp& context, const Value& q, const Value& k,
                          const Value& v, const RunInput& run, const Arithmetic& arithmetic) {
  const std::int64_t tokens = run.count(), dim = context.head_dim;
  const Rounding inner = arithmetic.inner, kept = arithmetic.kv_cache;
  const std::vector<double> queries = AgainstCache(ScaledQuery(scores, q, arithmetic), arithmetic),
                            keys = Cached(k, arithmetic), values = Cached(v, arithmetic);
  Value out({tokens, context.heads * dim});
  ParallelFor(tokens * context.heads, 8, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> sum(static_cast<std::size_t>(dim));
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t t = r / context.heads, head = r % context.heads;
      const std::int64_t k_head = KvHead(head, scores.heads, scores.kv_heads, scores.tiled_heads);
      const std::int64_t v_head = KvHead(head, context.heads, context.kv_heads, context.tiled_heads);
      std::ranges::fill(sum, 0.0);
      double largest = kMasked, total = 0;
      for (std::int64_t s = 0; s < tokens; ++s) {
        if (!IsVisible(scores, run, t, s)) continue;
        const double dot = Dot(queries.data() + t * q.cols() + head * scores.head_dim,
                               keys.data() + s * k.cols() + k_head * scores.head_dim, scores.head_dim, arithmetic);
        // ggml's kernel divides the scale by the cap once, and multiplies by that.
        const double cap = scores.softcap, scale = (scores.scales_query ? 1.0 : scores.scale) / (cap > 0 ? cap : 1.0);
        double score = Round(inner, Round(inner, dot) * Round(inner, scale));
        if (cap > 0) score = Round(inner, cap * Round(inner, std::tanh(score)));
        double shrink = 1, weight = 1;
        if (score > largest) {
          shrink = largest == kMasked ? 0.0 : Round(inner, std::exp(Round(inner, largest - score)));
          largest = score;
          for (double& lane : sum) lane = Round(kept, lane * shrink);
        } else {
          weight = Round(inner, std::exp(Round(inner, score - largest)));
        }
        const double* lanes = values.data() + s * v.cols() + v_head * dim;
        for (std::int64_t d = 0; d < dim; ++d) {
          double& lane = sum[static_cast<std::size_t>(d)];
          lane = Round(kept, lane + lanes[d] * weight);
        }
        total = Round(inner, total * shrink + weight);
      }
      double* to = out.data.data() + t * out.cols() + head * dim;
      for (std::int64_t d = 0; d < dim; ++d)
        to[d] = total == 0 ? 0.0 : Round(arithmetic.storage, sum[static_cast<std::size_t>(d)] / total);
    }
  });
  return out;
}

}  // namespace paritrace
