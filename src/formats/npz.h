// NumPy's archive of arrays: a zip file of .npy members, stored or deflated.
// Source: PKWARE APPNOTE.TXT 6.3.10 (the parts that zipfile writes, Zip64 included); numpy.savez, numpy.savez_compressed.
#pragma once

#include <memory>
#include <optional>

#include "formats/tensor_file.h"

namespace paritrace {

// nullopt: not a zip file, let another reader try. FormatError: it is one and it is broken (the checksums are verified), or
// a member is no .npy array. Stored members stay where they lie; deflated ones are inflated, into no more memory than
// their compressed bytes can stand for.
// tensors: in the directory's order, named without ".npy".
[[nodiscard]] std::optional<TensorFile> TryReadNpz(std::shared_ptr<const InputFile> file);

}  // namespace paritrace
