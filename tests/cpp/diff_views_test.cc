// What the page shows of a diff's values: the numbers are those of the two tensors, counted by hand.
#include "report/diff_views.h"

#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "report/page.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kAllowed = 1e-3;
constexpr DiffViewLimits kLimits = {.samples = 8, .cells = 100, .histogram = true};

// A compared site of [heads, tokens, inner] or, with one head, [tokens, inner].
struct Pair {
  Pair(const std::string& name, std::int64_t outer, std::int64_t rows, std::int64_t inner, std::vector<float> a,
       std::vector<float> b)
      : reference(std::move(a)), subject(std::move(b)) {
    const Shape shape = outer > 1 ? Shape{outer, rows, inner} : Shape{rows, inner};
    const auto fill = [&](TraceEntry& entry, const std::vector<float>& values) {
      entry.tensor = {.name = name, .dtype = DType::kF32, .shape = shape, .bytes = std::as_bytes(std::span(values))};
    };
    fill(reference_entry, reference);
    fill(subject_entry, subject);
    site.site = name;
    site.is_site = site.compared = true;
    site.shape = shape;
    site.layout = ContiguousLayout(rows, inner);
    site.layout.outer = outer;
    site.layout.reference.outer_stride = site.layout.subject.outer_stride = rows * inner;
    site.layout.masked_scores = name.ends_with(".attn.scores");
    site.reference_entry = &reference_entry;
    site.subject_entry = &subject_entry;
    site.allowed = kAllowed;
  }
  Pair(const Pair&) = delete;
  Pair& operator=(const Pair&) = delete;

  std::vector<float> reference, subject;
  TraceEntry reference_entry, subject_entry;
  SiteDiff site;
};

const HeadCounts kTwoHeads = {{{0, "layers.0"}, 2}};

TEST(DiffViews, HeadsAreTheWorstErrorOverWhatRoundingExplains) {
  // Two heads of two lanes, three tokens; the second head is wrong at the last token by 4e-3 of its size.
  const std::vector<float> a = {3, 4, 3, 4, 3, 4, 3, 4, 3, 4, 3, 4};
  std::vector<float> b = a;
  b[11] += 0.02F;
  const Pair pair("layers.0.attn.q", 1, 3, 4, a, b);
  const Json view = DiffViewOf(pair.site, kTwoHeads, kLimits);
  EXPECT_EQ(view["values"], 12);
  EXPECT_EQ(view["heads"]["count"], 2);
  EXPECT_EQ(view["heads"]["bin"], 1);
  const double error = std::sqrt(std::pow(double{b[11]} - 4, 2) / 25) / kAllowed;
  EXPECT_NEAR(error, 4, 1e-5);
  EXPECT_EQ(view["heads"]["ratio"], PackF32({0, 0, 0, 0, 0, static_cast<float>(error)}));
  // Room for one column a head: the worst of the three tokens.
  const Json narrow = DiffViewOf(pair.site, kTwoHeads, {.samples = 1, .cells = 2, .histogram = false});
  EXPECT_EQ(narrow["heads"]["bin"], 3);
  EXPECT_EQ(narrow["heads"]["ratio"], PackF32({0, static_cast<float>(error)}));
  EXPECT_FALSE(narrow.contains("histogram"));
}

TEST(DiffViews, HeadsOnlyWhereTheTraceTells) {
  const std::vector<float> a(12, 1), b(12, 2);
  EXPECT_FALSE(DiffViewOf(Pair("layers.1.attn.q", 1, 3, 4, a, b).site, kTwoHeads, kLimits).contains("heads"));
  EXPECT_FALSE(DiffViewOf(Pair("layers.0.mlp.act", 1, 3, 4, a, b).site, kTwoHeads, kLimits).contains("heads"));
  EXPECT_FALSE(DiffViewOf(Pair("layers.0.attn.q", 1, 4, 3, a, b).site, kTwoHeads, kLimits).contains("heads"))
      << "three lanes are not two heads";
  EXPECT_FALSE(DiffViewOf(Pair("layers.0.attn.ctx", 3, 2, 2, a, b).site, kTwoHeads, kLimits).contains("heads"))
      << "a batch is no heads";
  Pair exact("layers.0.attn.q", 1, 3, 4, a, b);
  exact.site.allowed = 0;
  EXPECT_FALSE(DiffViewOf(exact.site, kTwoHeads, kLimits).contains("heads")) << "nothing to measure against";
}

TEST(DiffViews, MasksAreNoNumbers) {
  const float masked = -1e31F, infinity = std::numeric_limits<float>::infinity();
  // [2 heads, 2 queries, 2 keys]: causal; the second head shows a key that the reference masks.
  const std::vector<float> a = {1, masked, 2, 3, 1, masked, 2, 3}, b = {1, -infinity, 2, 3, 1, 0.5F, 2, 3};
  const Pair pair("layers.0.attn.scores", 2, 2, 2, a, b);
  DiffResult diff;
  diff.sites.push_back(pair.site);
  const HeadCounts heads = HeadsOf(diff);
  EXPECT_EQ(heads, kTwoHeads);
  const Json view = DiffViewOf(pair.site, heads, kLimits);
  EXPECT_EQ(view["heads"]["ratio"], PackF32({0, 0, infinity, 0}));
  const Json& histogram = view["histogram"];
  EXPECT_EQ(histogram["low"], 0.5);
  EXPECT_EQ(histogram["high"], 3);
  EXPECT_EQ(histogram["outside"], 0);
  std::int64_t reference = 0, subject = 0;
  for (const Json& count : histogram["reference"]) reference += count.get<std::int64_t>();
  for (const Json& count : histogram["subject"]) subject += count.get<std::int64_t>();
  EXPECT_EQ(reference, 6);
  EXPECT_EQ(subject, 7);
}

TEST(DiffViews, WhatIsNotFiniteIsCountedAndStandsOut) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> a = {1, 2, 3, 4, 0, 0, 0, 0}, b = {1, 2, nan, 4, 0, 0, 0, 0};
  const Pair pair("layers.0.attn.q", 1, 2, 4, a, b);
  const Json view = DiffViewOf(pair.site, kTwoHeads, kLimits);
  EXPECT_EQ(view["histogram"]["outside"], 1);
  EXPECT_EQ(view["heads"]["ratio"],
            PackF32({0, nan, std::numeric_limits<float>::infinity(), nan}));  // zeros tell nothing
  EXPECT_EQ(view["histogram"]["reference"][0], 4);
  EXPECT_EQ(view["histogram"]["reference"][47], 1);
}

TEST(DiffViews, NothingWhereASideHasNoValues) {
  const std::vector<float> a(8, 1);
  Pair pair("layers.0.attn.q", 1, 2, 4, a, a);
  EXPECT_FALSE(DiffViewOf(pair.site, {}, kLimits).contains("histogram")) << "all values are one";
  pair.subject_entry.tensor.bytes = {};
  EXPECT_TRUE(DiffViewOf(pair.site, {}, kLimits).is_null());
  pair.site.subject_entry = nullptr;
  EXPECT_TRUE(DiffViewOf(pair.site, {}, kLimits).is_null());
}

}  // namespace
}  // namespace paritrace
