#include "report/diff_views.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <string_view>
#include <vector>

#include "compare/tile_reader.h"
#include "core/decode.h"
#include "report/page.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::int64_t kMostRead = 1 << 22;
constexpr std::size_t kBins = 48;

// "layers.3" of "layers.3.attn.q"; "" where the site is of no layer.
std::string LayerOf(std::string_view site) {
  if (!site.starts_with("layers.")) return "";
  return std::string(site.substr(0, site.find('.', 7)));
}

bool IsScores(std::string_view site) { return site.ends_with(".attn.scores") || site.ends_with(".attn.probs"); }

// Engines record activations in scalar types; single values of blocks are not worth a decoder of their own.
bool HasValues(const TraceEntry* entry) {
  return entry != nullptr && entry->has_data() && entry->tensor.size() > 0 && !IsBlockQuantised(entry->tensor.dtype);
}

float ValueAt(const TensorView& tensor, std::int64_t index) {
  double value = 0;
  DecodeF64(tensor, index, 1, &value);
  return static_cast<float>(value);
}

// The largest difference, and values evenly spaced over the pairs.
Json SamplesOf(const SiteDiff& site, std::int64_t most) {
  const PairLayout& layout = site.layout;
  const std::int64_t count = layout.Count();
  std::vector<std::int64_t> at;
  if (site.stats.max_abs_at >= 0) at.push_back(site.stats.max_abs_at);
  const auto worst = static_cast<std::int64_t>(at.size());
  const std::int64_t even = std::min(most, count);
  for (std::int64_t k = 0; k < even; ++k) {
    const auto i = static_cast<std::int64_t>((static_cast<double>(k) + 0.5) / static_cast<double>(even) *
                                             static_cast<double>(count));
    if (i != site.stats.max_abs_at) at.push_back(std::min(i, count - 1));
  }
  std::vector<std::uint32_t> rows, columns;
  std::vector<float> reference, subject;
  for (const std::int64_t i : at) {
    rows.push_back(static_cast<std::uint32_t>(site.first_position + i / layout.inner % layout.rows));
    columns.push_back(static_cast<std::uint32_t>(i / layout.inner / layout.rows * layout.inner + i % layout.inner));
    reference.push_back(ValueAt(site.reference_entry->tensor, layout.ReferenceIndex(i)));
    subject.push_back(ValueAt(site.subject_entry->tensor, layout.SubjectIndex(i)));
  }
  return {{"rows", PackU32(rows)},
          {"columns", PackU32(columns)},
          {"reference", PackF32(reference)},
          {"subject", PackF32(subject)},
          {"worst", worst}};
}

// Both sides' values in f64, [outer, rows, inner].
struct Sides {
  explicit Sides(const SiteDiff& site) {
    const TensorView &a = site.reference_entry->tensor, &b = site.subject_entry->tensor;
    Read(a, site.layout.reference, site.layout, reference);
    Read(b, site.layout.subject, site.layout, subject);
    if (!site.layout.masked_scores) return;
    // A mask is no number: as infinity it is in no histogram, and equal to a mask on the other side.
    for (double& value : reference) value = value <= MaskBound(a.dtype) ? -kInfinity : value;
    for (double& value : subject) value = value <= MaskBound(b.dtype) ? -kInfinity : value;
  }

  static void Read(const TensorView& tensor, const SideLayout& side, const PairLayout& layout,
                   std::vector<double>& to) {
    const auto reader = std::make_unique<TileReader<double>>(tensor, side);
    to.reserve(static_cast<std::size_t>(layout.Count()));
    for (std::int64_t outer = 0; outer < layout.outer; ++outer) {
      for (std::int64_t row = 0; row < layout.rows; ++row) {
        for (std::int64_t done = 0; done < layout.inner; done += TileReader<double>::kTile) {
          const std::int64_t now = std::min(TileReader<double>::kTile, layout.inner - done);
          const double* const values = reader->Read(outer, row, done, now);
          to.insert(to.end(), values, values + now);
        }
      }
    }
  }

  std::vector<double> reference, subject;
};

// null where all values are one.
Json HistogramOf(const Sides& sides, bool scores) {
  double low = kInfinity, high = -kInfinity;
  for (const auto* side : {&sides.reference, &sides.subject}) {
    for (const double value : *side) {
      if (!std::isfinite(value)) continue;
      low = std::min(low, value);
      high = std::max(high, value);
    }
  }
  if (!(low < high) || !std::isfinite(high - low)) return nullptr;
  std::int64_t outside = 0;
  const auto count = [&](const std::vector<double>& side) {
    std::array<std::int64_t, kBins> counts{};
    for (const double value : side) {
      if (!std::isfinite(value)) {
        outside += scores ? 0 : 1;  // of scores, masks
        continue;
      }
      const double at = (value - low) / (high - low) * static_cast<double>(kBins);
      ++counts[std::min(kBins - 1, static_cast<std::size_t>(at))];
    }
    return counts;
  };
  const auto reference = count(sides.reference), subject = count(sides.subject);
  return {{"low", low}, {"high", high}, {"reference", reference}, {"subject", subject}, {"outside", outside}};
}

// Heads of the site's values, side by side in a position or one after the other; 0 where that is not known.
std::int64_t HeadsAt(const SiteDiff& site, const HeadCounts& heads) {
  constexpr std::array<std::string_view, 4> kByQueryHead = {".attn.q", ".attn.q_norm", ".attn.q_rope", ".attn.ctx"};
  const auto known = heads.find({site.step, LayerOf(site.site)});
  if (known == heads.end() || known->second < 1) return 0;
  const bool by_head =
      IsScores(site.site) || std::any_of(kByQueryHead.begin(), kByQueryHead.end(),
                                         [&](std::string_view end) { return site.site.ends_with(end); });
  const std::int64_t count = known->second, outer = site.layout.outer;
  // Anything else around the positions, a batch, is no heads.
  const bool apart = outer == count,
             side_by_side = outer == 1 && !IsScores(site.site) && site.layout.inner % count == 0;
  return by_head && (apart || side_by_side) ? count : 0;
}

// Root mean squares of one head at one token: of the difference, over what rounding explains.
double RatioOf(const Sides& sides, const PairLayout& layout, std::int64_t row, std::int64_t begin, std::int64_t end,
               double allowed) {
  double error = 0, energy = 0;
  for (std::int64_t feature = begin; feature < end; ++feature) {
    const std::int64_t outer = feature / layout.inner, inner = feature % layout.inner;
    const auto at = static_cast<std::size_t>((outer * layout.rows + row) * layout.inner + inner);
    const double a = sides.reference[at], b = sides.subject[at];
    if (!std::isfinite(a) && !std::isfinite(b) && (a == b || (std::isnan(a) && std::isnan(b)))) continue;
    if (!std::isfinite(a) || !std::isfinite(b)) return kInfinity;
    error += (a - b) * (a - b);
    energy += a * a;
  }
  if (error == 0) return energy > 0 ? 0 : std::numeric_limits<double>::quiet_NaN();
  return std::sqrt(error / energy) / allowed;
}

Json HeadsToJson(const SiteDiff& site, const Sides& sides, std::int64_t heads, std::int64_t most) {
  const PairLayout& layout = site.layout;
  const std::int64_t room = std::max<std::int64_t>(1, most / heads), bin = (layout.rows + room - 1) / room;
  const std::int64_t bins = (layout.rows + bin - 1) / bin, width = layout.outer * layout.inner / heads;
  std::vector<float> ratio(static_cast<std::size_t>(heads * bins), std::numeric_limits<float>::quiet_NaN());
  for (std::int64_t head = 0; head < heads; ++head) {
    for (std::int64_t row = 0; row < layout.rows; ++row) {
      float& kept = ratio[static_cast<std::size_t>(head * bins + row / bin)];
      const auto here = static_cast<float>(RatioOf(sides, layout, row, head * width, (head + 1) * width, site.allowed));
      if (std::isnan(kept) || here > kept) kept = here;
    }
  }
  return {{"count", heads}, {"bin", bin}, {"ratio", PackF32(ratio)}};
}

}  // namespace

HeadCounts HeadsOf(const DiffResult& diff) {
  HeadCounts heads;
  for (const SiteDiff& site : diff.sites) {
    if (!site.compared || !IsScores(site.site) || site.shape.size() < 3) continue;
    heads[{site.step, LayerOf(site.site)}] = site.shape[site.shape.size() - 3];
  }
  return heads;
}

DiffViewLimits DiffViewLimitsFor(std::size_t sites) {
  const auto count = static_cast<std::int64_t>(std::max<std::size_t>(sites, 1));
  return {.samples = std::clamp<std::int64_t>(60'000 / count, 4, 256),
          .cells = std::min<std::int64_t>(400'000 / count, 2048),
          .histogram = count <= 2000};
}

Json DiffViewOf(const SiteDiff& site, const HeadCounts& heads, const DiffViewLimits& limits) {
  const std::int64_t count = site.layout.Count();
  if (!site.compared || site.estimate || count == 0 || !HasValues(site.reference_entry) ||
      !HasValues(site.subject_entry))
    return nullptr;
  Json view = {{"values", count}, {"samples", SamplesOf(site, limits.samples)}};
  const std::int64_t head_count = HeadsAt(site, heads);
  const bool with_heads = head_count > 1 && head_count <= limits.cells && site.allowed > 0;
  if (count > kMostRead || !(limits.histogram || with_heads)) return view;
  const Sides sides(site);
  if (with_heads) view["heads"] = HeadsToJson(site, sides, head_count, limits.cells);
  if (limits.histogram) {
    if (Json histogram = HistogramOf(sides, site.layout.masked_scores); !histogram.is_null())
      view["histogram"] = std::move(histogram);
  }
  return view;
}

}  // namespace paritrace
