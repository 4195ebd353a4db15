// What every reader returns: the tensors of one file, still where they lie in the mapping.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/file.h"
#include "core/tensor.h"

namespace paritrace {

struct TensorFile {
  std::string format;                                   // "safetensors", "npy", "npz", "gguf"
  std::vector<TensorView> tensors;                      // in the file's order; views into `file`
  nlohmann::ordered_json metadata;                      // the file's own key-value data; {} where it has none
  std::vector<std::shared_ptr<const InputFile>> files;  // keeps the bytes alive

  // nullptr if there is none of that name.
  [[nodiscard]] const TensorView* Find(std::string_view name) const;
};

// Opens any format we know, by its magic bytes, never by its ending. Errors: UsageError (cannot be read), FormatError (broken, or no known format).
[[nodiscard]] TensorFile OpenTensorFile(const std::string& path);

// The same for bytes that are already there. Errors: FormatError.
[[nodiscard]] TensorFile ReadTensorFile(std::shared_ptr<const InputFile> file);

}  // namespace paritrace
