// A safetensors file that grows tensor by tensor and is valid after every step, so that an engine that dies leaves a file
// that opens. The header's place is reserved in front and filled up; what is not used yet is spaces, which the format allows.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "core/output_file.h"
#include "core/tensor.h"

namespace paritrace {

class SafetensorsStream {
 public:
  // Creates or replaces the file. header_bytes: room for the header; it grows beyond by rewriting the file.
  // Errors here and below: UsageError as in WriteSafetensors.
  SafetensorsStream(const std::string& path, std::uint64_t header_bytes);

  // True if the tensor's entry still fits into the room, so that Append need not rewrite the file.
  [[nodiscard]] bool Fits(const TensorView& tensor) const;

  // The data is written first, then the entry: a kill in between leaves trailing bytes, never a lie. Names must differ.
  void Append(const TensorView& tensor);

  // Replaces the file's own key-value data: an object of strings.
  void SetMetadata(const nlohmann::ordered_json& metadata);

  [[nodiscard]] std::uint64_t data_size() const { return file_->size() - data_begin(); }

 private:
  [[nodiscard]] std::uint64_t data_begin() const;
  [[nodiscard]] std::string Tail() const;
  void WriteTail();
  void Grow(std::uint64_t header_bytes);

  std::unique_ptr<OutputFile> file_;
  std::uint64_t header_bytes_;
  std::string entries_;        // `"a":{…},"b":{…}`
  std::uint64_t written_ = 0;  // bytes of entries_ that stand in the file and change no more
  std::uint64_t used_ = 0;     // bytes of the header that are not padding
  std::string metadata_;       // `"__metadata__":{…}` or ""
};

}  // namespace paritrace
