#include "diagnose/common_ground.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace paritrace {
namespace {

// Six layers; the even ones have a window, the first two are dense; ten tokens of prefill and three decoded.
RunLayout Layout() {
  return {.layers = 6,
          .windowed = {true, false, true, false, true, false},
          .mixture = {false, false, true, true, true, true},
          .prefill = 10,
          .tokens = 13};
}

struct GroundCase {
  const char* name;
  std::vector<int> layers;
  std::vector<std::int64_t> tokens;
  std::string expected;
};

class CommonGroundTest : public ::testing::TestWithParam<GroundCase> {};
TEST_P(CommonGroundTest, Phrase) {
  EXPECT_EQ(CommonGround(Layout(), GetParam().layers, GetParam().tokens), GetParam().expected);
}
INSTANTIATE_TEST_SUITE_P(
    Table, CommonGroundTest,
    ::testing::Values(GroundCase{"Everything", {0, 1, 2, 3, 4, 5}, {}, ""}, GroundCase{"NoLayers", {}, {}, ""},
                      GroundCase{"Windowed", {0, 2, 4}, {}, "only the layers with a sliding window"},
                      GroundCase{"Full", {1, 3, 5}, {}, "only the layers with full attention"},
                      GroundCase{"SomeWindowed", {0, 2}, {}, ""},
                      GroundCase{"Mixtures", {2, 3, 4, 5}, {}, "only the mixtures of experts"},
                      GroundCase{"Dense", {0, 1}, {}, "only the dense layers"},
                      GroundCase{"First", {0}, {}, "only the first layer"},
                      GroundCase{"Last", {5}, {}, "only the last layer"}, GroundCase{"Middle", {3}, {}, ""},
                      GroundCase{"NotTheFirst", {1, 2, 3, 4, 5}, {}, "all layers but the first"},
                      GroundCase{"From", {3, 4, 5}, {}, "only the layers from 3 on"},
                      GroundCase{"Decode", {}, {10, 11, 12}, "only in decode steps"},
                      GroundCase{"OneDecode", {}, {11}, "only in decode steps"},
                      GroundCase{"Prefill", {}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, "only in the prefill"},
                      GroundCase{"AboveZero", {}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, "only in rows above 0"},
                      GroundCase{"RowZero", {}, {0}, "only in row 0"}, GroundCase{"Scattered", {}, {0, 4, 7}, ""},
                      GroundCase{"Both", {5}, {10, 11, 12}, "only the last layer, only in decode steps"},
                      GroundCase{"LayerOutOfRange", {9}, {}, ""}),
    [](const auto& row) { return row.param.name; });

}  // namespace
}  // namespace paritrace
