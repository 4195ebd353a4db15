#include "formats/tensor_file.h"

#include <algorithm>

#include <fmt/format.h>

#include "core/error.h"
#include "formats/gguf.h"
#include "formats/npy.h"
#include "formats/npz.h"
#include "formats/safetensors.h"

namespace paritrace {
namespace {

using Reader = std::optional<TensorFile> (*)(std::shared_ptr<const InputFile>);

// safetensors comes last: it has no magic of its own, only a likely ninth byte.
constexpr Reader kReaders[] = {
    &TryReadGguf,
    &TryReadNpy,
    &TryReadNpz,
    [](std::shared_ptr<const InputFile> file) { return TryReadSafetensors(std::move(file)); },
};

std::string FirstBytes(std::span<const std::byte> bytes) {
  if (bytes.empty()) return "an empty file";
  std::string text = "the bytes";
  for (const std::byte byte : bytes.first(std::min<std::size_t>(bytes.size(), 8))) {
    text += fmt::format(" {:02x}", std::to_integer<unsigned>(byte));
  }
  return text;
}

}  // namespace

const TensorView* TensorFile::Find(std::string_view name) const {
  const auto found =
      std::find_if(tensors.begin(), tensors.end(), [&](const TensorView& tensor) { return tensor.name == name; });
  return found == tensors.end() ? nullptr : &*found;
}

TensorFile ReadTensorFile(std::shared_ptr<const InputFile> file) {
  for (const Reader reader : kReaders) {
    if (auto result = reader(file)) return *std::move(result);
  }
  throw FormatError(file->name(), 0, "a safetensors, gguf, npy or npz file", FirstBytes(file->bytes()));
}

TensorFile OpenTensorFile(const std::string& path) { return ReadTensorFile(MapFile(path)); }

}  // namespace paritrace
