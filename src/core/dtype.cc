#include "core/dtype.h"

#include <array>
#include <cstddef>

namespace paritrace {
namespace {

// In the order of the enum. Block sizes: ggml's type traits (ggml-common.h, gguf-py's GGML_QUANT_SIZES).
constexpr std::array kInfos = {
    DTypeInfo{"f64", 1, 8, true},          DTypeInfo{"f32", 1, 4, true},        DTypeInfo{"f16", 1, 2, true},
    DTypeInfo{"bf16", 1, 2, true},         DTypeInfo{"f8_e4m3", 1, 1, true},    DTypeInfo{"f8_e5m2", 1, 1, true},
    DTypeInfo{"i8", 1, 1, false},          DTypeInfo{"i16", 1, 2, false},       DTypeInfo{"i32", 1, 4, false},
    DTypeInfo{"i64", 1, 8, false},         DTypeInfo{"u8", 1, 1, false},        DTypeInfo{"u16", 1, 2, false},
    DTypeInfo{"u32", 1, 4, false},         DTypeInfo{"u64", 1, 8, false},       DTypeInfo{"bool", 1, 1, false},
    DTypeInfo{"q4_0", 32, 18, true},       DTypeInfo{"q4_1", 32, 20, true},     DTypeInfo{"q5_0", 32, 22, true},
    DTypeInfo{"q5_1", 32, 24, true},       DTypeInfo{"q8_0", 32, 34, true},     DTypeInfo{"q2_k", 256, 84, true},
    DTypeInfo{"q3_k", 256, 110, true},     DTypeInfo{"q4_k", 256, 144, true},   DTypeInfo{"q5_k", 256, 176, true},
    DTypeInfo{"q6_k", 256, 210, true},     DTypeInfo{"q8_k", 256, 292, true},   DTypeInfo{"iq1_s", 256, 50, true},
    DTypeInfo{"iq1_m", 256, 56, true},     DTypeInfo{"iq2_xxs", 256, 66, true}, DTypeInfo{"iq2_xs", 256, 74, true},
    DTypeInfo{"iq2_s", 256, 82, true},     DTypeInfo{"iq3_xxs", 256, 98, true}, DTypeInfo{"iq3_s", 256, 110, true},
    DTypeInfo{"iq4_nl", 32, 18, true},     DTypeInfo{"iq4_xs", 256, 136, true}, DTypeInfo{"tq1_0", 256, 54, true},
    DTypeInfo{"tq2_0", 256, 66, true},     DTypeInfo{"mxfp4", 32, 17, true},    DTypeInfo{"nvfp4", 64, 36, true},
    DTypeInfo{"i2_s", 128, 32, true},      DTypeInfo{"q8_1", 32, 36, true},     DTypeInfo{"q1_0", 128, 18, true},
    DTypeInfo{"ternary_rows", 4, 1, true},
};
static_assert(kInfos.size() == static_cast<std::size_t>(DType::kTernaryRows) + 1);

}  // namespace

const DTypeInfo& Info(DType dtype) { return kInfos[static_cast<std::size_t>(dtype)]; }

std::optional<DType> ParseDType(std::string_view name) {
  for (std::size_t i = 0; i < kInfos.size(); ++i) {
    if (kInfos[i].name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

}  // namespace paritrace
