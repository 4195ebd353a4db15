// Names and steps, on which `paritrace weights` rests; what it says of whole files is tested in tests/python/test_weights.py.
#include <cmath>
#include <cstring>
#include <random>

#include <gtest/gtest.h>

#include "compare/quant_step.h"
#include "compare/weight_names.h"
#include "core/decode.h"

namespace paritrace {
namespace {

struct NameCase {
  const char* test;
  const char* name;
  const char* key;  // "" where the name means nothing
  bool norms_after = false;
};
class WeightNameTest : public ::testing::TestWithParam<NameCase> {};
TEST_P(WeightNameTest, Key) {
  const auto place = PlaceOfWeight(GetParam().name, GetParam().norms_after);
  EXPECT_EQ(place ? place->Key() : "", GetParam().key);
}
INSTANTIATE_TEST_SUITE_P(
    Table, WeightNameTest,
    ::testing::Values(NameCase{"LayerThatOverflows", "model.layers.99999999999999999999.self_attn.q_proj.weight", ""},
                      NameCase{"NoLayerNumber", "blk.x.attn_q.weight", ""}, NameCase{"Empty", "", ""},
                      NameCase{"Unknown", "vision_tower.patch.weight", ""},
                      NameCase{"HfQuery", "model.layers.3.self_attn.q_proj.weight", "layers.3.attn.q"},
                      NameCase{"GgufQuery", "blk.3.attn_q.weight", "layers.3.attn.q"},
                      NameCase{"Bias", "blk.10.attn_k.bias", "layers.10.attn.k.bias"},
                      NameCase{"BertQuery", "bert.encoder.layer.1.attention.self.query.bias", "layers.1.attn.q.bias"},
                      NameCase{"Norm", "model.layers.0.post_attention_layernorm.weight", "layers.0.mlp.norm"},
                      NameCase{"NormOfGemma", "model.layers.0.post_attention_layernorm.weight",
                               "layers.0.attn.post_norm", true},
                      NameCase{"Expert", "model.layers.2.block_sparse_moe.experts.7.w3.weight", "layers.2.moe.up.7"},
                      NameCase{"Router", "model.layers.2.mlp.gate.weight", "layers.2.moe.router"},
                      NameCase{"Stacked", "blk.2.ffn_up_exps.weight", "layers.2.moe.up"},
                      NameCase{"FinalNorm", "model.norm.weight", "final_norm"},
                      NameCase{"Head", "output.weight", "logits"},
                      NameCase{"HeadIsNoNorm", "output_norm.weight", "final_norm"},
                      NameCase{"Embedding", "model.embed_tokens.weight", "embed"}),
    [](const auto& row) { return row.param.test; });

// Within a run of 16 values all scales are one: decoded values lie whole numbers of steps apart.
class StepTest : public ::testing::TestWithParam<DType> {};
TEST_P(StepTest, ValuesLieOnTheGrid) {
  const DTypeInfo& info = Info(GetParam());
  std::mt19937 random(7);
  constexpr int kBlocks = 20;
  const auto count = static_cast<std::size_t>(kBlocks * info.block_elements);
  std::vector<std::byte> bytes(static_cast<std::size_t>(kBlocks * info.block_bytes));
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() & 0xff);
  TensorView tensor{"w", GetParam(), {static_cast<std::int64_t>(count)}, bytes};
  std::vector<float> values(count), steps(count);
  DecodeF32(tensor, 0, tensor.size(), values.data());
  StepsOf(tensor, 0, tensor.size(), values.data(), steps.data());
  int looked_at = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t first = i / 16 * 16;
    // Random bytes make scales that are no numbers; and a step far below the values is lost in their rounding.
    if (!std::isfinite(values[i]) || !(steps[i] > 1e-30F) || !(std::fabs(values[i]) < 1e4F * steps[i])) continue;
    EXPECT_EQ(steps[i], steps[first]);
    const double apart = (static_cast<double>(values[i]) - values[first]) / steps[i];
    EXPECT_NEAR(apart, std::round(apart), 1e-2) << i;
    EXPECT_LE(std::fabs(apart), 256);
    looked_at += apart != 0;
  }
  EXPECT_GT(looked_at, 100);
}
INSTANTIATE_TEST_SUITE_P(Types, StepTest,
                         ::testing::Values(DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,
                                           DType::kQ2_K, DType::kQ3_K, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K,
                                           DType::kTQ1_0, DType::kTQ2_0),
                         [](const auto& row) { return std::string(Name(row.param)); });

TEST(StepsOf, UnitsOfScalars) {
  const std::vector<float> values = {1, 1.5F, 2, -3, 0};
  const auto step = [&](DType type, std::size_t at) {
    std::vector<float> steps(values.size());
    StepsOf({"w", type, {5}, {}}, 0, 5, values.data(), steps.data());
    return steps[at];
  };
  EXPECT_EQ(step(DType::kF16, 0), 0x1p-10F);
  EXPECT_EQ(step(DType::kF16, 3), 0x1p-9F);
  EXPECT_EQ(step(DType::kF16, 4), 0x1p-24F);
  EXPECT_EQ(step(DType::kBF16, 1), 0x1p-7F);
  EXPECT_EQ(step(DType::kF32, 2), 0x1p-22F);
}

}  // namespace
}  // namespace paritrace
