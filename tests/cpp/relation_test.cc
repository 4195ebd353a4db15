#include "compare/relations.h"

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compare/diff.h"
#include "core/decode.h"
#include "memory_trace.h"

namespace paritrace {
namespace {

using testing_support::Disturbed;
using testing_support::MemoryTrace;
using testing_support::Normal;
using Json = nlohmann::ordered_json;

constexpr std::int64_t kRows = 12, kColumns = 64;

// The relation found between a random tensor and what `make` turns it into, with f32-like rounding on top.
std::optional<Json> RelationOf(
    const std::function<double(const std::vector<double>&, std::int64_t, std::int64_t)>& make, double noise = 1e-7) {
  const std::vector<double> x = Normal(kRows * kColumns, 1);
  std::vector<double> y(x.size());
  for (std::int64_t r = 0; r < kRows; ++r) {
    for (std::int64_t c = 0; c < kColumns; ++c) y[static_cast<std::size_t>(r * kColumns + c)] = make(x, r, c);
  }
  y = Disturbed(y, noise, 2);
  const TensorView a{"x", DType::kF64, {kRows, kColumns}, std::as_bytes(std::span(x))},
      b{"y", DType::kF64, {kRows, kColumns}, std::as_bytes(std::span(y))};
  const PairLayout layout = ContiguousLayout(kRows, kColumns);
  return FindRelation({a, b, layout, 0});
}

double At(const std::vector<double>& x, std::int64_t r, std::int64_t c) {
  return x[static_cast<std::size_t>(r * kColumns + c)];
}

struct RelationCase {
  const char* name;
  std::function<double(const std::vector<double>&, std::int64_t, std::int64_t)> make;
  Json expected;  // keys that must stand there
};
void PrintTo(const RelationCase& row, std::ostream* out) { *out << row.name; }
class RelationTest : public ::testing::TestWithParam<RelationCase> {};

TEST_P(RelationTest, IsFound) {
  const auto found = RelationOf(GetParam().make);
  if (GetParam().expected.is_null()) {
    EXPECT_FALSE(found) << found->dump();
    return;
  }
  ASSERT_TRUE(found);
  for (const auto& [key, value] : GetParam().expected.items()) EXPECT_EQ((*found)[key], value) << found->dump();
  EXPECT_FALSE((*found)["statement"].get<std::string>().empty());
}

INSTANTIATE_TEST_SUITE_P(
    Table, RelationTest,
    ::testing::Values(
        // Nothing to find: other values altogether, and an error that has no form.
        RelationCase{"Unrelated",
                     [](const auto&, auto r, auto c) { return std::sin(static_cast<double>(r * 7919 + c * 104729)); },
                     nullptr},
        RelationCase{"HalfRelated",
                     [](const auto& x, auto r, auto c) {
                       return At(x, r, c) + std::sin(static_cast<double>(r * 7919 + c * 104729));
                     },
                     nullptr},
        RelationCase{
            "Negated", [](const auto& x, auto r, auto c) { return -At(x, r, c); }, {{"kind", "scale"}, {"name", "-1"}}},
        RelationCase{"ScaleOfAttention",
                     [](const auto& x, auto r, auto c) { return At(x, r, c) / std::sqrt(32.0); },
                     {{"kind", "scale"}, {"name", "1/sqrt(32)"}}},
        RelationCase{"ScaleOfEmbedding",
                     [](const auto& x, auto r, auto c) { return At(x, r, c) * 8; },
                     {{"kind", "scale"}, {"name", "sqrt(64)"}}},
        RelationCase{"ScaleWithoutName",
                     [](const auto& x, auto r, auto c) { return At(x, r, c) * 1.2345; },
                     {{"kind", "scale"}}},
        RelationCase{"Shift", [](const auto& x, auto r, auto c) { return At(x, r, c) + 0.5; }, {{"kind", "shift"}}},
        RelationCase{"TokenShift",
                     [](const auto& x, auto r, auto c) { return r == 0 ? 0.3 : At(x, r - 1, c); },
                     {{"kind", "token_shift"}, {"by", 1}}},
        RelationCase{"TokenShiftBack",
                     [](const auto& x, auto r, auto c) { return r == kRows - 1 ? 0.3 : At(x, r + 1, c); },
                     {{"kind", "token_shift"}, {"by", -1}}},
        RelationCase{"Saturation",
                     [](const auto& x, auto r, auto c) { return std::clamp(At(x, r, c), -1.0, 1.0); },
                     {{"kind", "saturation"}}},
        RelationCase{"TokenScale",
                     [](const auto& x, auto r, auto c) { return At(x, r, c) * (1 + 0.1 * static_cast<double>(r)); },
                     {{"kind", "token_scale"}}},
        RelationCase{"Bias",
                     [](const auto& x, auto r, auto c) { return At(x, r, c) + 0.1 * static_cast<double>(c % 7); },
                     {{"kind", "channel_shift"}}},
        RelationCase{"NormWeight",
                     [](const auto& x, auto r, auto c) { return At(x, r, c) * (1 + 0.1 * static_cast<double>(c % 7)); },
                     {{"kind", "channel_scale"}}},
        RelationCase{"HeadLayout",
                     [](const auto& x, auto r, auto c) { return At(x, r, c % 4 * 16 + c / 4); },
                     {{"kind", "head_layout"}, {"heads", 4}}},
        RelationCase{"Interleaved",
                     [](const auto& x, auto r, auto c) { return At(x, r, c / 16 * 16 + c % 2 * 8 + c % 16 / 2); },
                     {{"kind", "row_order"}, {"from", "interleaved"}, {"head_dim", 16}}},
        RelationCase{"HalfSplit",
                     [](const auto& x, auto r, auto c) { return At(x, r, c / 16 * 16 + c % 8 * 2 + c % 16 / 8); },
                     {{"kind", "row_order"}, {"from", "half_split"}, {"head_dim", 16}}},
        RelationCase{"HeadsExchanged",
                     [](const auto& x, auto r, auto c) { return At(x, r, (c / 16 ^ 1) * 16 + c % 16); },
                     {{"kind", "head_permutation"}, {"head_dim", 16}, {"order", {1, 0, 3, 2}}}},
        RelationCase{"ChannelsShuffled",
                     [](const auto& x, auto r, auto c) { return At(x, r, (c * 27 + 5) % kColumns); },
                     {{"kind", "channel_permutation"}}},
        RelationCase{"OneToken",
                     [](const auto& x, auto r, auto c) {
                       return At(x, r, c) * (r == 7 ? 3.0 : 1.0) + (r == 7 ? std::sin(static_cast<double>(c * c)) : 0);
                     },
                     {{"kind", "local"}, {"tokens", {7}}}},
        RelationCase{"OneChannel",
                     [](const auto& x, auto r, auto c) {
                       return c == 9 ? std::sin(static_cast<double>(r * r + 1)) : At(x, r, c);
                     },
                     {{"kind", "local"}, {"channels", {9}}}}),
    [](const auto& row) { return row.param.name; });

TEST(FindRelation, RoundingToTheBit) {
  const auto nearest = RelationOf(
      [](const auto& x, auto r, auto c) {
        return static_cast<double>(BFloatToFloat(FloatToBFloat(static_cast<float>(At(x, r, c)))));
      },
      0);
  ASSERT_TRUE(nearest);
  EXPECT_EQ((*nearest)["how"], "nearest");
  const auto truncated = RelationOf(
      [](const auto& x, auto r, auto c) {
        const auto bits = __builtin_bit_cast(std::uint32_t, static_cast<float>(At(x, r, c)));
        return static_cast<double>(BFloatToFloat(static_cast<std::uint16_t>(bits >> 16)));
      },
      0);
  ASSERT_TRUE(truncated);
  EXPECT_EQ((*truncated)["how"], "truncation");
}

TEST(NameFactor, OnlyWhatIsCloseEnough) {
  EXPECT_EQ(NameFactor(0.125, 1e-6, {64}), "1/sqrt(64)");
  EXPECT_EQ(NameFactor(-0.5, 1e-6, {64}), "-1/2");
  EXPECT_EQ(NameFactor(0.1251, 1e-6, {64}), "");
  EXPECT_EQ(NameFactor(64, 1e-6, {64}), "64");
}

// In a diff: the residual left out is told as what it is, and the site still counts as diverged.
TEST(FindRelation, ResidualLeftOut) {
  MemoryTrace a, b;
  const std::vector<double> in = Normal(8 * 32, 1), out = Normal(8 * 32, 2);
  std::vector<double> residual(in.size());
  for (std::size_t i = 0; i < in.size(); ++i) residual[i] = in[i] + out[i];
  for (MemoryTrace* trace : {&a, &b}) {
    trace->Engine("x", "torch-f32").Add(0, "layers.0.in", {8, 32}, in).Add(0, "layers.0.attn.out", {8, 32}, out);
  }
  a.Add(0, "layers.0.attn.residual", {8, 32}, residual);
  b.Add(0, "layers.0.attn.residual", {8, 32}, out);
  const DiffResult result = Diff(a.trace(), b.trace());
  EXPECT_EQ(result.verdict, Verdict::kDiverged);
  EXPECT_EQ(result.sites[2].relation["kind"], "other_site");
  EXPECT_EQ(result.sites[2].relation["site"], "layers.0.attn.out");
}

}  // namespace
}  // namespace paritrace
