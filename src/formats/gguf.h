// GGUF, the model format of llama.cpp and its relatives.
// Source: github.com/ggml-org/ggml, docs/gguf.md; bounds as in ggml/src/gguf.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "formats/tensor_file.h"

namespace paritrace {

// nullopt: not a GGUF file, let another reader try. FormatError: it is one and it is broken, big-endian, or older than v2.
// metadata: every key in the file's order; numbers as they stand (f32 widened exactly), arrays as JSON arrays.
// tensors: in the file's order; shapes row-major like NumPy's, though GGUF lists the innermost axis first.
// Types that nothing decodes yet are listed all the same.
[[nodiscard]] std::optional<TensorFile> TryReadGguf(std::shared_ptr<const InputFile> file);

// The dtype of a ggml type id (enum ggml_type); nullopt for ids that ggml removed or does not have yet.
// 36 is I2_S, as bitnet.cpp uses it; ggml itself has removed what it meant by it.
[[nodiscard]] std::optional<DType> DTypeOfGgmlType(std::uint32_t type);

}  // namespace paritrace
