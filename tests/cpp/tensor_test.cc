#include "core/tensor.h"

#include <gtest/gtest.h>

namespace paritrace {
namespace {

TEST(ElementCount, RefusesWhatOverflowsOrIsNegative) {
  EXPECT_EQ(ElementCount({}), 1);
  EXPECT_EQ(ElementCount({2, 3}), 6);
  EXPECT_EQ(ElementCount({0, 1LL << 62, 1LL << 62}), 0);
  EXPECT_EQ(ElementCount({1LL << 32, 1LL << 32}), std::nullopt);
  EXPECT_EQ(ElementCount({-1, 4}), std::nullopt);
}

TEST(ByteCount, BlockTypesNeedWholeBlocks) {
  EXPECT_EQ(ByteCount({2, 64}, DType::kQ8_0), 2 * 2 * 34);
  EXPECT_EQ(ByteCount({2, 33}, DType::kQ8_0), std::nullopt);
  EXPECT_EQ(ByteCount({1LL << 61}, DType::kF64), std::nullopt);
}

TEST(WithoutLeadingOnes, KeepsInnerOnes) {
  EXPECT_EQ(WithoutLeadingOnes({1, 1, 10, 64}), (Shape{10, 64}));
  EXPECT_EQ(WithoutLeadingOnes({1, 64}), (Shape{1, 64}));
  EXPECT_EQ(WithoutLeadingOnes({3, 1, 64}), (Shape{3, 1, 64}));
}

}  // namespace
}  // namespace paritrace
