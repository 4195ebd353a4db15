// NumPy's one-array format.
// Source: NumPy NEP 1 and numpy/lib/format.py, versions 1.0 to 3.0.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "formats/tensor_file.h"

namespace paritrace {

// nullopt: not an .npy file, let another reader try. FormatError: it is one and it is broken, or holds what is no tensor
// (objects, strings, records, complex numbers).
// The tensor is named after the file, without ".npy". NumPy has no name for the types of ml_dtypes (JAX, TensorFlow): its
// bfloat16 is written as two void bytes ("V2") and float8_e5m2 as "f1", and so they are read; "V1" has several meanings.
[[nodiscard]] std::optional<TensorFile> TryReadNpy(std::shared_ptr<const InputFile> file);

// Adds the array in `bytes`, a whole .npy file, to `result`. `file` is the name for errors. Big-endian and Fortran-ordered
// arrays are turned into a copy that result.files keeps; all others stay where they are.
// Errors: FormatError.
void AddNpyArray(const std::string& file, const std::string& tensor_name, std::span<const std::byte> bytes,
                 TensorFile& result);

// Writes [shape] values as '<f4' or '<f8'. values.size() must be the product of the shape.
// Errors: UsageError if the file cannot be written.
void WriteNpy(const std::string& path, const Shape& shape, std::span<const float> values);
void WriteNpy(const std::string& path, const Shape& shape, std::span<const double> values);

}  // namespace paritrace
