// The safetensors format: a JSON header, then the bytes of all tensors without a gap.
// Source: github.com/huggingface/safetensors, README.md ("Format") and safetensors/src/tensor.rs.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "formats/tensor_file.h"

namespace paritrace {

// The key of a file's own string map in the header.
inline constexpr std::string_view kSafetensorsMetadataKey = "__metadata__";

struct SafetensorsOptions {
  // The file is being written, or its writer was killed: bytes behind the last tensor are no error, what stands behind the
  // header's object or is torn there is left out, and so are tensors whose data is not there yet.
  bool unfinished = false;
};

// nullopt: not a safetensors file (which has no magic: the ninth byte must be '{'), let another reader try.
// FormatError: it is one and it is broken; as strict as the reference reader, so holes and overlaps are refused too.
// metadata: the strings of "__metadata__". tensors: in the header's order.
[[nodiscard]] std::optional<TensorFile> TryReadSafetensors(std::shared_ptr<const InputFile> file,
                                                           const SafetensorsOptions& options = {});

// Writes a whole file, atomically. `metadata`: an object of strings, {} for none.
// Errors: UsageError for a dtype that the format does not have, a name that stands twice, or a file that cannot be written.
void WriteSafetensors(const std::string& path, std::span<const TensorView> tensors,
                      const nlohmann::ordered_json& metadata = nlohmann::ordered_json::object());

// "BF16"; nullopt for block types, which the format does not have.
[[nodiscard]] std::optional<std::string_view> SafetensorsName(DType dtype);

// `"name":{"dtype":…,"shape":…,"data_offsets":[begin,end]}`: one entry of a header, without comma.
// Errors: UsageError as in WriteSafetensors.
[[nodiscard]] std::string SafetensorsEntry(const TensorView& tensor, std::uint64_t begin);

}  // namespace paritrace
