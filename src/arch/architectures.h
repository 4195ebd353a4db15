// One builder an architecture; the table in model.cc names them.
#pragma once

#include "arch/model.h"

namespace paritrace {

[[nodiscard]] Graph BuildLlama(const ModelSource& source);
[[nodiscard]] Graph BuildQwen2(const ModelSource& source);
[[nodiscard]] Graph BuildQwen3(const ModelSource& source);
[[nodiscard]] Graph BuildGemma2(const ModelSource& source);
[[nodiscard]] Graph BuildMixtral(const ModelSource& source);
[[nodiscard]] Graph BuildQwen2Moe(const ModelSource& source);
[[nodiscard]] Graph BuildBert(const ModelSource& source);
[[nodiscard]] Graph BuildNomicBertMoe(const ModelSource& source);
[[nodiscard]] Graph BuildBitNet(const ModelSource& source);

}  // namespace paritrace
