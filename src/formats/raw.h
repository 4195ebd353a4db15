// Raw values with neither name nor shape: .bin (little-endian, as the machine writes them) and .txt (numbers and white
// space). What they are must be said: "FILE:DTYPE:10x64".
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "formats/dump.h"

namespace paritrace {

struct RawSpec {
  std::string path;
  DType dtype = DType::kF32;
  Shape shape;
};

// nullopt for a path that does not end in a dtype and a shape.
[[nodiscard]] std::optional<RawSpec> ParseRawSpec(const std::string& text);

// One tensor, named after the file without folder and ending. A file that ends in .txt or .csv is read as text (commas count
// as white space; f32 or f64), every other as bytes.
// Errors: FormatError where the file does not hold exactly the values of the shape, UsageError for a dtype that has no text.
[[nodiscard]] Dump ReadRaw(const RawSpec& spec, const std::shared_ptr<const InputFile>& file);

}  // namespace paritrace
