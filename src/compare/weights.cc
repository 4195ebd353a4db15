#include "compare/weights.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <set>

#include <fmt/format.h>

#include "compare/weight_relations.h"
#include "compare/weight_view.h"
#include "compare/weights_cleared.h"
#include "core/error.h"

namespace paritrace {
namespace {

constexpr std::string_view kTied = " (tied)";

bool IsReordered(std::string_view role) {
  return role == "attn.q" || role == "attn.k" || role == "attn.q.bias" || role == "attn.k.bias";
}

// What the formats themselves ask for.
WeightMapping RightMapping(const WeightSource& reference, const WeightSource& subject, const NamedWeight& weight) {
  using Order = WeightSource::RowOrder;
  WeightMapping mapping;
  const std::int64_t head_dim = subject.head_dim > 0 ? subject.head_dim : reference.head_dim;
  const bool known = reference.row_order != Order::kUnknown && subject.row_order != Order::kUnknown;
  if (known && reference.row_order != subject.row_order && IsReordered(weight.role) && head_dim >= 4 &&
      head_dim % 2 == 0 && weight.tensor.shape[0] % head_dim == 0) {
    mapping.head_dim = head_dim;
    mapping.to_interleaved = subject.row_order == Order::kInterleaved;
  }
  const bool both_models = !reference.architecture.empty() && !subject.architecture.empty();
  if (both_models && reference.norms_hold_plus_one != subject.norms_hold_plus_one && IsNormRole(weight.role) &&
      reference.architecture.starts_with("gemma") && subject.architecture.starts_with("gemma")) {
    mapping.add = subject.norms_hold_plus_one ? 1 : -1;
  }
  return mapping;
}

// Rounding to the nearest code leaves half a step at most, and no factor: the slope of rounded values over the true ones
// departs from 1 by no more than the rounding's share of the energy (3 of it, for quantisers that search), and by chance.
bool IsRounding(const WeightStats& s) {
  if (s.nonfinite > 0 || s.bad_groups > 0) return false;
  // A code that is nearest, where 0 is a code too, is of the value's sign and at most twice as large: see IsBad.
  if (!(s.share >= 0.499)) return false;
  if (!s.has_bound) return s.correlation >= std::sqrt(0.5);
  if (!(s.rms_error <= s.half_step_rms)) return false;
  if (!(s.rms_reference > 0)) return true;
  const double expected = std::pow(s.expected_rms / s.rms_reference, 2),
               found = std::pow(s.rms_error / s.rms_reference, 2);
  const double tolerance =
      3 * expected + 8 * std::sqrt(found / static_cast<double>(std::max<std::int64_t>(1, s.values)));
  return std::fabs(s.slope - 1) <= tolerance;
}

SiteStatus Judge(const WeightStats& stats, const TensorView& tensor) {
  if (stats.exact == tensor.size()) return SiteStatus::kIdentical;
  return IsRounding(stats) ? SiteStatus::kWithinNoise : SiteStatus::kDiverged;
}

// The first `rows` rows of a matrix.
void CutRows(NamedWeight& weight, std::int64_t rows) {
  const auto bytes = ByteCount({rows, weight.tensor.shape[1]}, weight.tensor.dtype);
  if (!bytes || *bytes > static_cast<std::int64_t>(weight.tensor.bytes.size())) return;
  weight.tensor.shape[0] = rows;
  weight.tensor.bytes = weight.tensor.bytes.first(static_cast<std::size_t>(*bytes));
}

class Comparison {
 public:
  Comparison(WeightsResult& result, const std::function<void(std::int64_t, std::int64_t)>& progress)
      : result_(result), progress_(progress) {
    for (const NamedWeight& weight : result_.reference.weights) reference_.emplace(weight.key, &weight);
    for (const NamedWeight& weight : result_.subject.weights) subject_.emplace(weight.key, &weight);
  }

  void Run() {
    std::vector<std::pair<const NamedWeight*, const NamedWeight*>> pairs;
    for (const NamedWeight& weight : result_.reference.weights) {
      if (const NamedWeight* other = At(subject_, weight.key)) {
        pairs.emplace_back(&weight, other);
        total_ += other->tensor.size();
      }
    }
    if (pairs.empty()) {
      result_.reason = fmt::format("no weight in common: {} and {} have no name that means the same",
                                   Example(result_.reference), Example(result_.subject));
      return;
    }
    for (const NamedWeight& weight : result_.reference.weights) {
      if (const NamedWeight* other = At(subject_, weight.key)) {
        Compare(weight, *other);
      } else {
        MissingInSubject(weight);
      }
    }
    for (const NamedWeight& weight : result_.subject.weights) {
      if (!reference_.contains(weight.key)) MissingInReference(weight);
    }
    if (progress_) progress_(total_, total_);
    Conclude();
  }

 private:
  using Index = std::map<std::string, const NamedWeight*, std::less<>>;
  static const NamedWeight* At(const Index& index, std::string_view key) {
    const auto found = index.find(key);
    return found == index.end() ? nullptr : found->second;
  }
  static std::string Example(const WeightSource& source) {
    return source.weights.empty() ? "nothing" : source.weights.front().name;
  }

  static WeightPair Start(const NamedWeight& weight) {
    return {.key = weight.key, .role = weight.role, .layer = weight.layer, .shape = weight.tensor.shape};
  }

  void Compare(NamedWeight reference, NamedWeight subject, std::string_view remark = "") {
    WeightPair pair = Start(subject);
    pair.reference_name = reference.name + std::string(remark);
    pair.subject_name = subject.name;
    pair.reference_type = reference.tensor.dtype;
    pair.subject_type = subject.tensor.dtype;
    const bool table = subject.role == "embed" || subject.role == "logits";
    Shape &a = reference.tensor.shape, &b = subject.tensor.shape;
    if (table && a != b && a.size() == 2 && b.size() == 2 && a[1] == b[1]) {
      result_.remarks.push_back(fmt::format(
          "{}: {} rows in the reference, {} in the subject: the common ones are compared", subject.key, a[0], b[0]));
      const std::int64_t rows = std::min(a[0], b[0]);
      CutRows(reference, rows);
      CutRows(subject, rows);
    }
    const bool same_shape = a == b;
    WeightMapping mapping = same_shape ? RightMapping(result_.reference, result_.subject, subject) : WeightMapping{};
    WeightStats stats;
    if (same_shape) {
      stats = Measure(reference, subject, mapping);
      pair.status = Judge(stats, subject.tensor);
    } else {
      pair.status = SiteStatus::kShapeMismatch;
    }
    if (pair.status == SiteStatus::kDiverged || pair.status == SiteStatus::kShapeMismatch) {
      Explain(reference, subject, mapping, stats, same_shape, pair);
    }
    pair.reordered |= mapping.head_dim > 0 && pair.status != SiteStatus::kDiverged;
    pair.plus_one = mapping.add != 0 && pair.status != SiteStatus::kDiverged;
    if (same_shape) pair.stats = stats;
    result_.pairs.push_back(std::move(pair));
  }

  WeightStats Measure(const NamedWeight& reference, const NamedWeight& subject, const WeightMapping& mapping) {
    return MeasureWeights(reference, subject, mapping, [this](std::int64_t values) {
      const std::int64_t done = done_.fetch_add(values) + values;
      if (progress_ && done < total_) progress_(done, total_);
    });
  }

  void Explain(const NamedWeight& reference, const NamedWeight& subject, WeightMapping& mapping, WeightStats& stats,
               bool same_shape, WeightPair& pair) {
    const std::int64_t head_dim = result_.subject.head_dim > 0 ? result_.subject.head_dim : result_.reference.head_dim;
    WeightAnswer answer = ExplainWeight({.reference = reference,
                                         .subject = subject,
                                         .mapping = mapping,
                                         .stats = stats,
                                         .head_dim = head_dim,
                                         .same_shape = same_shape,
                                         .others = result_.reference.weights});
    // Where a side does not say in which order it keeps the rows of q and k, either is right.
    const bool free = result_.reference.row_order == WeightSource::RowOrder::kUnknown ||
                      result_.subject.row_order == WeightSource::RowOrder::kUnknown;
    if (free && IsReordered(subject.role) && answer.relation["kind"] == "row_order") {
      mapping = {.head_dim = answer.relation["head_dim"], .to_interleaved = answer.relation["to"] == "interleaved"};
      stats = MeasureWeights(reference, subject, mapping, {});
      pair.status = Judge(stats, subject.tensor);
      pair.reordered = true;
      if (pair.status != SiteStatus::kDiverged) return;
    }
    pair.relation = std::move(answer.relation);
    pair.cause = std::move(answer.cause);
  }

  // q, k and v of the other side in one tensor, or the reverse.
  static bool IsFused(const Index& other, const NamedWeight& weight) {
    if (weight.layer < 0) return false;
    const std::string prefix = fmt::format("layers.{}.attn.", weight.layer),
                      end = weight.key.ends_with(".bias") ? ".bias" : "";
    if (weight.role.starts_with("attn.qkv")) return other.contains(prefix + "q" + end);
    const bool part =
        weight.role.starts_with("attn.q") || weight.role.starts_with("attn.k") || weight.role.starts_with("attn.v");
    return part && !IsNormRole(weight.role) && other.contains(prefix + "qkv" + end);
  }

  void MissingInSubject(const NamedWeight& weight) {
    if (weight.role == "logits") {
      // Tied: the other side uses its embedding.
      if (const NamedWeight* embed = At(subject_, "embed")) {
        NamedWeight head = *embed;
        head.key = weight.key;
        head.role = weight.role;
        head.name += kTied;
        const std::size_t at = result_.pairs.size();
        Compare(weight, head);
        if (result_.pairs[at].status == SiteStatus::kDiverged) {
          result_.pairs[at].cause = {
              .id = "head.untied",
              .confidence = 0.97,
              .statement = "the subject has no head of its own, and its embedding is another matrix",
              .fix = "write the head's weight into the file"};
        }
        return;
      }
    }
    WeightPair pair = Start(weight);
    pair.reference_name = weight.name;
    pair.reference_type = weight.tensor.dtype;
    pair.status = SiteStatus::kMissingInSubject;
    if (IsFused(subject_, weight)) {
      fused_ = true;
    } else if (!weight.role.empty() && result_.subject.not_known.empty()) {
      std::string id = weight.role.ends_with(".bias")
                           ? (IsNormRole(weight.role.substr(0, weight.role.size() - 5)) ? "norm.bias_missing"
                                                                                        : "linear.bias_missing")
                       : weight.role == "embed.position" ? "embed.position_missing"
                       : weight.role == "embed.type"     ? "embed.type_missing"
                       : weight.role == "logits"         ? "head.untied"
                                                         : "weights.unloaded";
      pair.cause = {.id = std::move(id),
                    .confidence = 0.9,
                    .statement = "the subject's file has no such weight",
                    .fix = "write it when converting"};
    }
    result_.pairs.push_back(std::move(pair));
  }

  void MissingInReference(const NamedWeight& weight) {
    if (weight.role == "logits") {
      if (const NamedWeight* embed = At(reference_, "embed")) {
        NamedWeight head = *embed;
        head.key = weight.key;
        head.role = weight.role;
        Compare(head, weight, kTied);
        if (WeightPair& last = result_.pairs.back(); last.status == SiteStatus::kDiverged) {
          last.cause = {.id = "head.tied",
                        .confidence = 0.9,
                        .statement = "the reference uses its embedding as head, the subject another matrix",
                        .fix = "tie them"};
        }
        return;
      }
    }
    fused_ |= IsFused(reference_, weight);
    WeightPair pair = Start(weight);
    pair.subject_name = weight.name;
    pair.subject_type = weight.tensor.dtype;
    pair.status = SiteStatus::kMissingInReference;
    result_.pairs.push_back(std::move(pair));
  }

  void Conclude() {
    bool identical = true, diverged = false;
    std::size_t missing = 0, extra = 0;
    for (const WeightPair& pair : result_.pairs) {
      identical &= pair.status == SiteStatus::kIdentical;
      diverged |= pair.cause.has_value();
      missing += pair.status == SiteStatus::kMissingInSubject && !pair.cause;
      extra += pair.status == SiteStatus::kMissingInReference;
    }
    result_.verdict = diverged ? Verdict::kDiverged : identical ? Verdict::kIdentical : Verdict::kWithinNoise;
    if (fused_) result_.remarks.emplace_back("q, k and v stand in one tensor on one side only: they are not compared");
    if (missing > 0)
      result_.remarks.push_back(
          fmt::format("{} weights of the reference found no partner, {} of the subject", missing, extra));
    for (const auto& [source, name] :
         {std::pair(&result_.reference, "reference"), std::pair(&result_.subject, "subject")}) {
      if (source->not_known.empty()) continue;
      result_.remarks.push_back(fmt::format("{} names of the {} mean nothing to us, the first is {}",
                                            source->not_known.size(), name, source->not_known.front()));
    }
    result_.cleared = ClearedByWeights(result_.pairs);
  }

  WeightsResult& result_;
  const std::function<void(std::int64_t, std::int64_t)>& progress_;
  Index reference_, subject_;
  std::int64_t total_ = 0;
  std::atomic<std::int64_t> done_ = 0;
  bool fused_ = false;
};

}  // namespace

WeightsResult CompareWeights(WeightSource reference, WeightSource subject,
                             const std::function<void(std::int64_t, std::int64_t)>& progress) {
  WeightsResult result{.reference = std::move(reference), .subject = std::move(subject)};
  Comparison(result, progress).Run();
  return result;
}

}  // namespace paritrace
