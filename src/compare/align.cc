#include "compare/align.h"

#include <algorithm>
#include <limits>
#include <map>
#include <tuple>

#include <fmt/format.h>

#include "trace/naming.h"

namespace paritrace {
namespace {

bool EndsWith(std::string_view site, std::string_view part) { return site.ends_with(part); }
bool IsScoreSite(std::string_view site) { return EndsWith(site, "attn.scores") || EndsWith(site, "attn.probs"); }

// Where an engine that needs only the last token's logits may have dropped the other rows already.
bool MayHoldLastRowsOnly(std::string_view site) { return site == "logits" || site == "final_norm"; }

// Likewise within its last layer, behind the attention: what llama.cpp drops before it adds the residual stream.
bool MayHoldLastRowOnly(std::string_view site) {
  if (!site.starts_with("layers.")) return false;
  const std::string_view part = site.substr(std::min(site.find('.', 7), site.size()));
  return part == ".attn.residual" || part == ".attn.post_norm" || part == ".out" || part.starts_with(".mlp.") ||
         part.starts_with(".moe.");
}

// A tensor read as rows of features. heads > 1: stored [heads, rows, features / heads]; else row after row.
struct Reading {
  std::int64_t rows, features, heads;
  std::string_view words;
  bool transposed = false;  // [features, rows]
};

std::int64_t Product(const Shape& shape, std::size_t begin, std::size_t end) {
  std::int64_t product = 1;
  for (std::size_t i = begin; i < end; ++i) product *= shape[i];
  return product;
}

std::vector<Reading> ReadingsOf(const Shape& recorded) {
  const Shape shape = WithoutLeadingOnes(recorded, 2);
  const std::size_t axes = shape.size();
  if (axes == 0) return {{1, 1, 1, "a scalar"}};
  if (axes == 1) return {{1, shape[0], 1, "[features]"}, {shape[0], 1, 1, "[tokens]"}};
  std::vector<Reading> readings;
  if (axes == 3) readings.push_back({shape[1], shape[0] * shape[2], shape[0], "[heads, tokens, dim]"});
  if (axes == 4)
    readings.push_back({shape[2], shape[0] * shape[1] * shape[3], shape[0] * shape[1], "[batch, heads, tokens, dim]"});
  readings.push_back({Product(shape, 0, axes - 1), shape[axes - 1], 1,
                      axes == 2 ? "[tokens, features]" : "[batch, tokens, features]"});
  for (std::size_t split = axes - 2; split >= 1; --split) {
    readings.push_back({Product(shape, 0, split), Product(shape, split, axes), 1, "[tokens, heads, dim]"});
  }
  // Last: a reading that needs no transposing is likelier where both fit.
  readings.push_back({shape[axes - 1], Product(shape, 0, axes - 1), 1, "[features, tokens]", true});
  return readings;
}

// Only those with the step's number of rows, if there are such.
std::vector<Reading> WithRows(std::vector<Reading> readings, std::optional<std::int64_t> tokens) {
  if (!tokens) return readings;
  std::vector<Reading> fitting;
  std::copy_if(readings.begin(), readings.end(), std::back_inserter(fitting),
               [&](const Reading& r) { return r.rows == *tokens; });
  return fitting.empty() ? readings : fitting;
}

SideLayout LayoutOf(const Reading& reading, std::int64_t heads, std::int64_t skip) {
  SideLayout side;
  const std::int64_t dim = reading.features / heads;
  side.row_stride = reading.heads > 1 ? dim : reading.features;
  side.outer_stride = reading.heads > 1 ? reading.rows * dim : dim;
  if (reading.transposed) {
    side.row_stride = 1;
    side.outer_stride = dim * reading.rows;
    side.inner_stride = reading.rows;
  }
  side.base = skip * side.row_stride;
  return side;
}

bool SameLayout(const PairLayout& a, const PairLayout& b) {
  const auto fields = [](const SideLayout& s) {
    return std::tie(s.base, s.outer_stride, s.row_stride, s.inner_stride, s.order);
  };
  return std::tie(a.outer, a.rows, a.inner) == std::tie(b.outer, b.rows, b.inner) &&
         fields(a.reference) == fields(b.reference) && fields(a.subject) == fields(b.subject);
}

std::vector<LayoutCandidate> ReadScores(const ShapePair& shapes, std::string& reason) {
  Shape r = WithoutLeadingOnes(shapes.reference, 3), s = WithoutLeadingOnes(shapes.subject, 3);
  for (Shape* shape : {&r, &s}) {
    if (shape->size() == 2) shape->insert(shape->begin(), 1);  // one head
  }
  if (r.size() != 3 || s.size() != 3) {
    reason = "scores need [heads, queries, keys]";
    return {};
  }
  if (r[0] != s[0]) {
    reason = fmt::format("{} heads in the reference, {} in the subject", r[0], s[0]);
    return {};
  }
  const std::int64_t rows = shapes.rows.value_or(r[1]);
  if (!shapes.rows && r[1] != s[1]) {
    reason = fmt::format("{} queries in the reference, {} in the subject", r[1], s[1]);
    return {};
  }
  // Columns beyond the keys are padding (llama.cpp pads to 256 cache slots).
  std::int64_t keys = std::min(r[2], s[2]);
  if (shapes.keys) {
    if (*shapes.keys > keys) {
      reason = fmt::format("{} keys expected, {} recorded", *shapes.keys, keys);
      return {};
    }
    keys = *shapes.keys;
  }
  if (shapes.reference_skip + rows > r[1] || shapes.subject_skip + rows > s[1]) {
    reason = "fewer queries recorded than the step has";
    return {};
  }
  LayoutCandidate candidate;
  PairLayout& layout = candidate.layout;
  layout.outer = r[0];
  layout.rows = rows;
  layout.inner = keys;
  layout.reference = {.base = shapes.reference_skip * r[2],
                      .outer_stride = r[1] * r[2],
                      .row_stride = r[2],
                      .inner_stride = 1,
                      .order = {}};
  layout.subject = {.base = shapes.subject_skip * s[2],
                    .outer_stride = s[1] * s[2],
                    .row_stride = s[2],
                    .inner_stride = 1,
                    .order = {}};
  layout.masked_scores = EndsWith(shapes.site, "attn.scores");
  return {candidate};
}

// Rows of a side: which positions they are, where the header tells.
struct Span {
  std::int64_t start = 0, rows = 0;
};

class Positions {
 public:
  explicit Positions(const Trace& trace) {
    for (const TraceStep& step : trace.header.steps) steps_[step.step] = {step.start, step.count};
  }

  [[nodiscard]] std::optional<Span> Step(int step) const {
    const auto found = steps_.find(step);
    return found == steps_.end() ? std::nullopt : std::optional(found->second);
  }

  // nullopt: unknown, or the tensor's rows are no tokens.
  [[nodiscard]] std::optional<Span> Of(const TraceEntry& entry) const {
    const std::optional<Span> step = Step(entry.step);
    if (!step || entry.site == "pooled") return std::nullopt;
    const Shape& shape = entry.tensor.shape;
    if (IsScoreSite(entry.site)) {
      const bool fits = shape.size() >= 2 && shape[shape.size() - 2] == step->rows;
      return fits ? step : std::nullopt;
    }
    const std::vector<Reading> readings = ReadingsOf(shape);
    for (const Reading& reading : readings) {
      if (reading.rows == step->rows) return step;
    }
    if (!MayHoldLastRowsOnly(entry.site)) return std::nullopt;
    // The first reading with fewer rows: [vocabulary] or [last tokens, vocabulary].
    for (const Reading& reading : readings) {
      if (reading.rows < step->rows) return Span{step->start + step->rows - reading.rows, reading.rows};
    }
    return std::nullopt;
  }

 private:
  std::map<int, Span> steps_;
};

std::string KeyOf(const TraceEntry& entry) {
  if (!entry.pair_as.empty()) return "map " + entry.pair_as;
  return entry.site.empty() ? "name " + entry.name : "site " + entry.site;
}

// Entries under one key, by step; several of one step in the order of the trace.
using EntryGroups = std::map<std::string, std::vector<const TraceEntry*>>;

// Occurrences of a key within one step pair with each other: the n-th with the n-th.
EntryGroups GroupEntries(const Trace& trace) {
  EntryGroups groups;
  std::map<std::pair<std::string, int>, int> occurrences;
  for (const TraceEntry& entry : trace.entries) {
    const std::string key = KeyOf(entry);
    const int occurrence = occurrences[{key, entry.step}]++;
    groups[occurrence == 0 ? key : fmt::format("{} #{}", key, occurrence)].push_back(&entry);
  }
  return groups;
}

class Aligner {
 public:
  Aligner(const Trace& reference, const Trace& subject, bool by_position)
      : reference_(reference),
        subject_(subject),
        by_position_(by_position),
        reference_positions_(reference),
        subject_positions_(subject) {}

  std::vector<EntryPair> Run() {
    const EntryGroups ours = GroupEntries(reference_), theirs = GroupEntries(subject_);
    for (const auto& [key, entries] : ours) {
      const auto other = theirs.find(key);
      PairGroup(entries, other == theirs.end() ? std::vector<const TraceEntry*>() : other->second);
    }
    for (const auto& [key, entries] : theirs) {
      if (!ours.contains(key)) PairGroup({}, entries);
    }
    SortByExecution();
    return std::move(pairs_);
  }

 private:
  void PairGroup(const std::vector<const TraceEntry*>& ours, const std::vector<const TraceEntry*>& theirs) {
    std::vector<bool> used(ours.size());
    for (const TraceEntry* subject : theirs) {
      bool paired = false;
      const std::optional<Span> subject_span = subject_positions_.Of(*subject);
      for (std::size_t i = 0; i < ours.size(); ++i) {
        const std::optional<Span> reference_span = reference_positions_.Of(*ours[i]);
        if (by_position_ && reference_span && subject_span) {
          const std::int64_t begin = std::max(reference_span->start, subject_span->start);
          const std::int64_t end =
              std::min(reference_span->start + reference_span->rows, subject_span->start + subject_span->rows);
          if (begin >= end) continue;
          Pair(*ours[i], *subject, Span{begin, end - begin}, *reference_span, *subject_span);
        } else if (ours[i]->step == subject->step) {
          Pair(*ours[i], *subject);
        } else {
          continue;
        }
        used[i] = paired = true;
      }
      if (!paired) AddUnpaired(PairStatus::kMissingInReference, nullptr, subject);
    }
    for (std::size_t i = 0; i < ours.size(); ++i) {
      if (!used[i]) AddUnpaired(PairStatus::kMissingInSubject, ours[i], nullptr);
    }
  }

  static const std::string& SiteOrName(const TraceEntry& entry) { return entry.site.empty() ? entry.name : entry.site; }

  EntryPair Start(PairStatus status, const TraceEntry* reference, const TraceEntry* subject) const {
    EntryPair pair;
    pair.status = status;
    pair.reference = reference;
    pair.subject = subject;
    const TraceEntry& one = subject != nullptr ? *subject : *reference;
    pair.step = one.step;
    pair.is_site = !one.site.empty();
    pair.site = SiteOrName(one);
    pair.shape = WithoutLeadingOnes(reference != nullptr ? reference->tensor.shape : subject->tensor.shape);
    pair.subject_shape = WithoutLeadingOnes(one.tensor.shape);
    return pair;
  }

  void AddUnpaired(PairStatus status, const TraceEntry* reference, const TraceEntry* subject) {
    pairs_.push_back(Start(status, reference, subject));
  }

  void Pair(const TraceEntry& reference, const TraceEntry& subject) {
    EntryPair pair = Start(PairStatus::kPaired, &reference, &subject);
    const auto reference_step = reference_positions_.Step(reference.step),
               subject_step = subject_positions_.Step(subject.step);
    pair.first_position = subject_step ? subject_step->start : reference_step ? reference_step->start : 0;
    ShapePair shapes{.site = SiteOrName(subject), .reference = reference.tensor.shape, .subject = subject.tensor.shape};
    if (reference_step) shapes.reference_tokens = reference_step->rows;
    if (subject_step) shapes.subject_tokens = subject_step->rows;
    Finish(std::move(pair), shapes);
  }

  void Pair(const TraceEntry& reference, const TraceEntry& subject, const Span& common, const Span& reference_span,
            const Span& subject_span) {
    EntryPair pair = Start(PairStatus::kPaired, &reference, &subject);
    pair.first_position = common.start;
    ShapePair shapes{.site = SiteOrName(subject), .reference = reference.tensor.shape, .subject = subject.tensor.shape};
    shapes.reference_tokens = reference_span.rows;
    shapes.subject_tokens = subject_span.rows;
    shapes.reference_skip = common.start - reference_span.start;
    shapes.subject_skip = common.start - subject_span.start;
    shapes.rows = common.rows;
    if (common.rows < std::max(reference_span.rows, subject_span.rows)) {
      pair.note = fmt::format("positions {} to {}, which both hold", common.start, common.start + common.rows - 1);
    }
    if (IsScoreSite(pair.site)) {
      const Shape &r = reference.tensor.shape, &s = subject.tensor.shape;
      const std::int64_t keys =
          std::min(reference_span.start + reference_span.rows, subject_span.start + subject_span.rows);
      // A cache that forgets (sliding window) holds fewer: then the recorded columns are all there is to go by.
      if (keys <= std::min(r.back(), s.back())) shapes.keys = keys;
    }
    Finish(std::move(pair), shapes);
  }

  void Finish(EntryPair pair, const ShapePair& shapes) {
    std::string reason;
    pair.candidates = ReadShapes(shapes, reason);
    if (pair.candidates.empty()) {
      pair.status = PairStatus::kShapeMismatch;
      pair.note = reason;
    } else if (!pair.reference->has_data() || !pair.subject->has_data()) {
      pair.status = PairStatus::kNotRecorded;
      pair.note = fmt::format("the {} holds no values here", pair.reference->has_data() ? "subject" : "reference");
    } else if (pair.note.empty() && !shapes.rows) {
      const std::int64_t rows = pair.candidates.front().layout.rows;
      std::int64_t most = rows;
      for (const Shape& shape : {pair.shape, pair.subject_shape})
        most = std::max(most, shape.size() >= 2 ? shape.front() : 1);
      if ((MayHoldLastRowsOnly(pair.site) || MayHoldLastRowOnly(pair.site)) && rows < most)
        pair.note = fmt::format("the last {} of {} tokens", rows, most);
    }
    pairs_.push_back(std::move(pair));
  }

  // The trace whose order counts, or nullptr.
  const Trace* OrderedTrace() const {
    if (reference_.has_order) return &reference_;
    return subject_.has_order ? &subject_ : nullptr;
  }

  void SortByExecution() {
    using Key = std::tuple<int, std::int64_t, std::int64_t, std::int64_t>;  // step, place, place after it, tie
    std::vector<std::pair<Key, std::size_t>> keys(pairs_.size());
    const Trace* ordered = OrderedTrace();
    const Trace& other = ordered == &subject_ ? reference_ : subject_;
    std::map<const TraceEntry*, std::int64_t> place_of;
    const auto index = [&](const Trace& trace) {
      for (std::size_t i = 0; i < trace.entries.size(); ++i) place_of[&trace.entries[i]] = static_cast<std::int64_t>(i);
    };
    index(reference_);
    index(subject_);
    // What only the other trace has follows what stood before it there and is in both.
    std::map<const TraceEntry*, std::int64_t> anchor_of;
    if (ordered != nullptr) {
      std::map<const TraceEntry*, std::int64_t> partner_place;
      for (const EntryPair& pair : pairs_) {
        if (pair.reference == nullptr || pair.subject == nullptr) continue;
        const bool reference_leads = ordered == &reference_;
        partner_place[reference_leads ? pair.subject : pair.reference] =
            place_of[reference_leads ? pair.reference : pair.subject];
      }
      std::map<int, std::int64_t> last;
      std::vector<const TraceEntry*> sequence;
      for (const TraceEntry& entry : other.entries) sequence.push_back(&entry);
      if (!other.has_order) {
        std::stable_sort(sequence.begin(), sequence.end(), [](const TraceEntry* a, const TraceEntry* b) {
          return ExecutionRank(a->site) < ExecutionRank(b->site);
        });
      }
      for (const TraceEntry* entry : sequence) {
        const auto partner = partner_place.find(entry);
        if (partner != partner_place.end()) last[entry->step] = partner->second;
        const auto known = last.find(entry->step);
        anchor_of[entry] = known == last.end() ? -1 : known->second;
      }
    }
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
      const EntryPair& pair = pairs_[i];
      const TraceEntry* leading = ordered == &subject_ ? pair.subject : pair.reference;
      const TraceEntry* either = pair.reference != nullptr ? pair.reference : pair.subject;
      Key key;
      if (ordered == nullptr) {
        key = {pair.step, ExecutionRank(pair.site), 0, place_of[either]};
      } else if (leading != nullptr) {
        key = {pair.step, place_of[leading], -1, pair.first_position};
      } else {
        key = {pair.step, anchor_of[either], place_of[either], 0};
      }
      keys[i] = {key, i};
    }
    std::sort(keys.begin(), keys.end());
    std::vector<EntryPair> sorted;
    sorted.reserve(pairs_.size());
    for (const auto& [key, i] : keys) sorted.push_back(std::move(pairs_[i]));
    pairs_ = std::move(sorted);
  }

  const Trace& reference_;
  const Trace& subject_;
  bool by_position_;
  Positions reference_positions_, subject_positions_;
  std::vector<EntryPair> pairs_;
};

enum class EngineKind { kUnknown, kGguf, kOther };

std::string Lower(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  return lower;
}

EngineKind KindOf(const TraceHeader& header) {
  const std::string engine = Lower(header.engine_name), file = Lower(header.model_file);
  if (file.ends_with(".gguf")) return EngineKind::kGguf;
  if (engine.find("llama.cpp") != std::string::npos || engine.find("llamacpp") != std::string::npos ||
      engine == "ggml") {
    return EngineKind::kGguf;
  }
  return engine.empty() && file.empty() ? EngineKind::kUnknown : EngineKind::kOther;
}

}  // namespace

std::vector<LayoutCandidate> ReadShapes(const ShapePair& shapes, std::string& reason) {
  if (IsScoreSite(shapes.site)) return ReadScores(shapes, reason);
  const std::vector<Reading> ours = WithRows(ReadingsOf(shapes.reference), shapes.reference_tokens);
  const std::vector<Reading> theirs = WithRows(ReadingsOf(shapes.subject), shapes.subject_tokens);
  std::vector<LayoutCandidate> candidates;
  const bool same_shape = WithoutLeadingOnes(shapes.reference) == WithoutLeadingOnes(shapes.subject);
  for (const Reading& r : ours) {
    for (const Reading& s : theirs) {
      if (r.features != s.features) continue;
      const bool both_by_head = r.heads > 1 && s.heads > 1;
      if (both_by_head && r.heads != s.heads) continue;
      std::int64_t rows = r.rows, r_skip = shapes.reference_skip, s_skip = shapes.subject_skip;
      if (shapes.rows) {
        rows = *shapes.rows;
        if (r_skip + rows > r.rows || s_skip + rows > s.rows) continue;
      } else if (r.rows != s.rows) {
        rows = std::min(r.rows, s.rows);
        if (!MayHoldLastRowsOnly(shapes.site) && !(rows == 1 && MayHoldLastRowOnly(shapes.site))) continue;
        r_skip = r.rows - rows;
        s_skip = s.rows - rows;
      }
      const std::int64_t heads = std::max(r.heads, s.heads);
      LayoutCandidate candidate;
      candidate.layout.outer = heads;
      candidate.layout.rows = rows;
      candidate.layout.inner = r.features / heads;
      candidate.layout.reference = LayoutOf(r, heads, r_skip);
      candidate.layout.subject = LayoutOf(s, heads, s_skip);
      if (r.heads != s.heads || r.transposed != s.transposed)
        candidate.relation = {{"kind", "layout"}, {"from", s.words}, {"to", r.words}};
      const bool known = std::any_of(candidates.begin(), candidates.end(), [&](const LayoutCandidate& other) {
        return SameLayout(other.layout, candidate.layout);
      });
      if (known) continue;
      candidates.push_back(std::move(candidate));
      // Tensors of one shape pair value by value; only what counts as a position depends on the reading.
      if (same_shape) return candidates;
    }
  }
  if (candidates.empty()) {
    reason =
        fmt::format("{} in the reference, {} in the subject", ToString(shapes.reference), ToString(shapes.subject));
  }
  // A reading that needs no change of layout first.
  std::stable_partition(candidates.begin(), candidates.end(),
                        [](const LayoutCandidate& c) { return c.relation.is_null(); });
  return candidates;
}

std::vector<EntryPair> AlignTraces(const Trace& reference, const Trace& subject, bool by_position) {
  return Aligner(reference, subject, by_position).Run();
}

bool RowOrderMayDiffer(std::string_view site, const TraceHeader& reference, const TraceHeader& subject) {
  const bool has_row_order = EndsWith(site, "attn.q") || EndsWith(site, "attn.k") || EndsWith(site, "attn.q_rope") ||
                             EndsWith(site, "attn.k_rope");
  if (!has_row_order) return false;
  const EngineKind ours = KindOf(reference), theirs = KindOf(subject);
  if (ours == theirs && ours != EngineKind::kUnknown) return false;
  // Only the GGUF side's word counts: Hugging Face calls by other names what llama.cpp runs as `llama` (Mistral, …).
  for (const auto& [kind, header] : {std::pair(ours, &reference), std::pair(theirs, &subject)}) {
    const std::string architecture = Lower(header->model_architecture);
    if (kind == EngineKind::kGguf && !architecture.empty() && architecture.find("llama") == std::string::npos)
      return false;
  }
  return true;
}

std::optional<LayoutCandidate> WithRowOrder(const LayoutCandidate& candidate, std::int64_t head_dim,
                                            bool subject_is_interleaved) {
  LayoutCandidate out = candidate;
  PairLayout& layout = out.layout;
  if (head_dim < 4 || head_dim % 2 != 0 || layout.inner % head_dim != 0) return std::nullopt;
  if (!layout.reference.order.empty() || !layout.subject.order.empty()) return std::nullopt;
  std::vector<std::int64_t> order(static_cast<std::size_t>(layout.inner));
  for (std::int64_t head = 0; head < layout.inner; head += head_dim) {
    for (std::int64_t i = 0; i < head_dim / 2; ++i) {
      order[static_cast<std::size_t>(head + i)] = head + 2 * i;
      order[static_cast<std::size_t>(head + head_dim / 2 + i)] = head + 2 * i + 1;
    }
  }
  (subject_is_interleaved ? layout.subject : layout.reference).order = std::move(order);
  out.relation = {{"kind", "rope_row_order"},
                  {"from", subject_is_interleaved ? "interleaved" : "half_split"},
                  {"to", subject_is_interleaved ? "half_split" : "interleaved"},
                  {"head_dim", head_dim}};
  if (!candidate.relation.is_null()) out.relation["layout"] = candidate.relation;
  return out;
}

}  // namespace paritrace
