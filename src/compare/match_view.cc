#include "compare/match_view.h"

#include <algorithm>
#include <cmath>

#include "compare/pair_stats.h"
#include "core/decode.h"

namespace paritrace {
namespace {

// The distance of two tensors that are multiples of each other.
constexpr double kScaled = 0.3, kUnrelated = 2;

// Where value (row, feature) lies: feature / block * block_stride + row * row_stride + feature % block * inner_stride.
struct Reading {
  std::int64_t rows, features, block, block_stride, row_stride, inner_stride;
  std::string_view words;
  bool padded = false;
};

std::int64_t Product(const Shape& shape, std::size_t begin, std::size_t end) {
  std::int64_t product = 1;
  for (std::size_t i = begin; i < end; ++i) product *= shape[i];
  return product;
}

Reading Plain(std::int64_t rows, std::int64_t features, std::string_view words) {
  return {rows, features, std::max<std::int64_t>(features, 1), 0, features, 1, words};
}

std::vector<Reading> ReadingsByToken(const Shape& recorded, const StepRows& step) {
  const Shape shape = WithoutLeadingOnes(recorded, 1);
  const std::size_t axes = shape.size();
  const std::int64_t tokens = step.tokens, count = Product(shape, 0, axes);
  std::vector<Reading> readings;
  if (tokens <= 0 || count == 0 || count % tokens != 0) return readings;
  // Leading axes that make up the tokens: [tokens, …], [batch, tokens, …]; none of them where there is one token.
  for (std::size_t split = tokens == 1 ? 0 : 1; split <= axes; ++split) {
    if (Product(shape, 0, split) != tokens) continue;
    readings.push_back(
        Plain(tokens, Product(shape, split, axes), split + 1 < axes ? "[tokens, heads, dim]" : "[tokens, features]"));
    break;
  }
  if (axes >= 3 && shape[axes - 2] == tokens) {
    const std::int64_t heads = Product(shape, 0, axes - 2), dim = shape[axes - 1];
    if (heads > 1) readings.push_back({tokens, heads * dim, dim, tokens * dim, dim, 1, "[heads, tokens, dim]"});
    // Scores of an engine that pads its keys (llama.cpp: to 256).
    if (step.keys > 0 && dim > step.keys)
      readings.push_back(
          {tokens, heads * step.keys, step.keys, tokens * dim, dim, 1, "[heads, tokens, keys + padding]", true});
  }
  if (axes >= 2 && shape[axes - 1] == tokens) {
    const std::int64_t features = count / tokens;
    readings.push_back({tokens, features, features, 0, 1, tokens, "[features, tokens]"});
  }
  return readings;
}

class Sampler {
 public:
  explicit Sampler(const TensorView& tensor) : tensor_(tensor), in_blocks_(IsBlockQuantised(tensor.dtype)) {
    // Block types can only be decoded block by block; activations are hardly ever stored so.
    if (in_blocks_) {
      whole_.resize(static_cast<std::size_t>(tensor.size()));
      DecodeF32(tensor, 0, tensor.size(), whole_.data());
    }
  }

  ContentView Sample(const Reading& reading, ContentView::Kind kind, std::int64_t skip, std::int64_t rows) {
    ContentView view;
    view.kind = kind;
    view.rows = rows;
    view.features = reading.features;
    view.layout = reading.words;
    view.width = std::min(reading.features, kSampledFeatures);
    const std::int64_t sampled = std::min(rows, kSampledRows);
    view.sample.resize(static_cast<std::size_t>(sampled * view.width));
    for (std::int64_t i = 0; i < sampled; ++i) {
      const std::int64_t row = skip + (sampled > 1 ? i * (rows - 1) / (sampled - 1) : 0);
      for (std::int64_t feature = 0; feature < view.width;) {
        const std::int64_t inside = feature % reading.block;
        const std::int64_t run = std::min(reading.block - inside, view.width - feature);
        const std::int64_t at =
            feature / reading.block * reading.block_stride + row * reading.row_stride + inside * reading.inner_stride;
        float* out = view.sample.data() + i * view.width + feature;
        if (reading.inner_stride == 1) {
          Decode(at, run, out);
        } else {
          for (std::int64_t k = 0; k < run; ++k) Decode(at + k * reading.inner_stride, 1, out + k);
        }
        feature += run;
      }
    }
    const double mask = MaskBound(tensor_.dtype);
    for (float& value : view.sample) {
      const bool masked = static_cast<double>(value) <= mask;
      view.masked += masked;
      if (masked || !std::isfinite(value)) value = 0;
      view.energy += static_cast<double>(value) * value;
    }
    view.says_something =
        std::any_of(view.sample.begin(), view.sample.end(), [&](float value) { return value != view.sample.front(); });
    return view;
  }

 private:
  void Decode(std::int64_t begin, std::int64_t count, float* out) {
    if (in_blocks_) {
      std::copy_n(whole_.begin() + begin, count, out);
    } else {
      DecodeF32(tensor_, begin, count, out);
    }
  }

  const TensorView& tensor_;
  bool in_blocks_;
  std::vector<float> whole_;
};

// What remains of (a-b)^2 is told from what scaling alone would leave, so that a wrong factor still looks related.
double Distance(double aa, double bb, double ab) {
  const double size = std::sqrt(aa * bb);
  if (!(size > 0)) return 4;  // one is all zero, the other not
  const double plain = std::max(0.0, aa + bb - 2 * ab) / size;
  const double scaled = kScaled + 2 * (1 - ab / size);
  return std::min(plain, scaled);
}

// Masked scores are no scores before the mask: raw products look like them wherever nothing is masked.
bool MasksDiffer(const ContentView& a, const ContentView& b) {
  return std::abs(a.masked - b.masked) * 10 > static_cast<std::int64_t>(a.sample.size());
}

std::optional<double> SampleDistance(const std::vector<float>& a, const std::vector<float>& b, double aa, double bb) {
  if (aa == 0 && bb == 0) return std::nullopt;
  // Differences, not the dot product alone: 1e-13 would drown in the rounding of aa + bb - 2 ab.
  double ab = 0, dd = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double x = a[i], y = b[i];
    ab += x * y;
    dd += (x - y) * (x - y);
  }
  if (!(aa > 0 && bb > 0)) return 4;
  return std::min(dd / std::sqrt(aa * bb), Distance(aa, bb, ab));
}

// From interleaved to half-split order, head by head.
std::vector<float> HalfSplit(const ContentView& view, std::int64_t head_dim) {
  std::vector<float> out(view.sample.size());
  for (std::size_t head = 0; head < out.size(); head += static_cast<std::size_t>(head_dim)) {
    const auto half = static_cast<std::size_t>(head_dim / 2);
    for (std::size_t i = 0; i < half; ++i) {
      out[head + i] = view.sample[head + 2 * i];
      out[head + half + i] = view.sample[head + 2 * i + 1];
    }
  }
  return out;
}

}  // namespace

std::vector<ContentView> ReadContent(const TensorView& tensor, const StepRows& step) {
  std::vector<ContentView> views;
  if (tensor.bytes.empty() || tensor.size() == 0) return views;
  Sampler sampler(tensor);
  const Shape shape = WithoutLeadingOnes(tensor.shape, 1);
  const std::int64_t count = tensor.size();
  for (const Reading& reading : ReadingsByToken(tensor.shape, step)) {
    const auto kind = reading.padded ? ContentView::Kind::kPadded : ContentView::Kind::kRows;
    views.push_back(sampler.Sample(reading, kind, step.skip, step.rows));
    if (!reading.padded && step.rows > 1 && step.skip + step.rows == step.tokens)
      views.push_back(sampler.Sample(reading, ContentView::Kind::kLastRow, step.tokens - 1, 1));
  }
  if (views.empty()) {
    const bool one_row = step.tokens > 1 && shape.size() == 1;
    views.push_back(sampler.Sample(Plain(1, count, one_row ? "[features]" : "as stored"),
                                   one_row ? ContentView::Kind::kOneRow : ContentView::Kind::kFlat, 0, 1));
  }
  return views;
}

std::int64_t GuessTokens(std::span<const TraceEntry* const> entries) {
  std::map<std::int64_t, int> votes;
  for (const TraceEntry* entry : entries) {
    const Shape shape = WithoutLeadingOnes(entry->tensor.shape);
    if (shape.size() >= 2) ++votes[shape[shape.size() - 2]];
  }
  std::int64_t best = 0;
  for (const auto& [tokens, count] : votes) {
    if (best == 0 || count > votes[best]) best = tokens;
  }
  return best;
}

ViewKey KeyOf(const ContentView& view) {
  return {view.kind == ContentView::Kind::kFlat ? -1 : view.rows, view.features};
}

bool Comparable(const ContentView& a, const ContentView& b) {
  using Kind = ContentView::Kind;
  if (KeyOf(a) != KeyOf(b) || a.sample.size() != b.sample.size()) return false;
  // A part of one tensor may be the whole of another. Two parts are no evidence: what was left out may be of any size.
  const auto is_part = [](Kind kind) { return kind == Kind::kLastRow || kind == Kind::kPadded; };
  const auto matches = [](Kind part, Kind whole) {
    return (part == Kind::kLastRow && whole == Kind::kOneRow) || (part == Kind::kPadded && whole == Kind::kRows);
  };
  return (a.kind == b.kind && !is_part(a.kind)) || matches(a.kind, b.kind) || matches(b.kind, a.kind);
}

std::optional<double> ContentDistance(const ContentView& a, const ContentView& b) {
  if (!Comparable(a, b) || !(a.says_something || b.says_something)) return std::nullopt;
  const auto distance = SampleDistance(a.sample, b.sample, a.energy, b.energy);
  return distance && MasksDiffer(a, b) ? std::max(*distance, kUnrelated) : distance;
}

std::optional<double> ContentDistance(const ContentView& reference, const ContentView& subject, const RowOrder& order) {
  if (!Comparable(reference, subject) || !(reference.says_something || subject.says_something)) return std::nullopt;
  if (order.head_dim < 4 || order.head_dim % 2 != 0 || reference.width % order.head_dim != 0) return std::nullopt;
  if (order.subject_is_interleaved)
    return SampleDistance(reference.sample, HalfSplit(subject, order.head_dim), reference.energy, subject.energy);
  return SampleDistance(HalfSplit(reference, order.head_dim), subject.sample, reference.energy, subject.energy);
}

ContentView WithSortedRows(ContentView view) {
  for (auto row = view.sample.begin(); row != view.sample.end(); row += view.width) std::sort(row, row + view.width);
  return view;
}

}  // namespace paritrace
