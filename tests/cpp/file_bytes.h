// Builds files, whole or broken, from readable fields; for tests of readers.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "formats/owned_bytes.h"

namespace paritrace::testing {

// Exactly these bytes on the heap, so that a sanitizer sees a read one byte too far.
inline std::shared_ptr<const InputFile> InMemory(std::string_view bytes, std::string name = "x") {
  auto file = std::make_shared<OwnedBytes>(std::move(name), bytes.size());
  if (!bytes.empty()) std::memcpy(file->writable().data(), bytes.data(), bytes.size());
  return file;
}

// The message of the FormatError that `read` throws; "no error" if it throws none.
template <typename Read>
std::string FormatErrorOf(const Read& read) {
  try {
    (void)read();
  } catch (const FormatError& error) {
    return error.what();
  }
  return "no error";
}

class Bytes {
 public:
  template <typename T>
  Bytes& Number(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Bytes& U16(std::uint64_t value) { return Number(static_cast<std::uint16_t>(value)); }
  Bytes& U32(std::uint64_t value) { return Number(static_cast<std::uint32_t>(value)); }
  Bytes& U64(std::uint64_t value) { return Number(value); }
  Bytes& Text(std::string_view text) {
    text_ += text;
    return *this;
  }
  Bytes& Zeros(std::size_t count) {
    text_.append(count, '\0');
    return *this;
  }
  [[nodiscard]] const std::string& str() const { return text_; }

 private:
  std::string text_;
};

// length, header, data
inline std::string SafetensorsBytes(std::string_view header, std::size_t data_bytes) {
  return Bytes().U64(header.size()).Text(header).Zeros(data_bytes).str();
}

// A version 1.0 file around `header`, a Python dict.
inline std::string NpyBytes(std::string_view header, std::string_view data) {
  return Bytes()
      .Text("\x93NUMPY")
      .Text(std::string_view("\x01\x00", 2))
      .U16(header.size())
      .Text(header)
      .Text(data)
      .str();
}

template <typename T>
std::string Raw(std::initializer_list<T> values) {
  Bytes bytes;
  for (const T value : values) bytes.Number(value);
  return bytes.str();
}

// GGUF, field by field; every count and offset can be made a lie.
class GgufBuilder {
 public:
  GgufBuilder& Version(std::uint32_t version) { return version_ = version, *this; }
  GgufBuilder& ClaimTensors(std::uint64_t count) { return tensor_count_ = count, claimed_tensors_ = true, *this; }
  GgufBuilder& ClaimKeys(std::uint64_t count) { return key_count_ = count, claimed_keys_ = true, *this; }

  // `value` is what follows the type in the file.
  GgufBuilder& Key(std::string_view key, std::uint32_t type, std::string_view value) {
    if (!claimed_keys_) ++key_count_;
    metadata_.U64(key.size()).Text(key).U32(type).Text(value);
    return *this;
  }
  // `dims` as in the file: innermost first.
  GgufBuilder& Tensor(std::string_view name, const std::vector<std::uint64_t>& dims, std::uint32_t type,
                      std::uint64_t offset) {
    if (!claimed_tensors_) ++tensor_count_;
    infos_.U64(name.size()).Text(name).U32(dims.size());
    for (const std::uint64_t dim : dims) infos_.U64(dim);
    infos_.U32(type).U64(offset);
    return *this;
  }
  GgufBuilder& Data(std::string_view data) { return data_ = data, *this; }
  GgufBuilder& Alignment(std::size_t alignment) { return alignment_ = alignment, *this; }

  [[nodiscard]] std::string str() const {
    Bytes file;
    file.Text("GGUF").U32(version_).U64(tensor_count_).U64(key_count_).Text(metadata_.str()).Text(infos_.str());
    if (!data_.empty()) file.Zeros((alignment_ - file.str().size() % alignment_) % alignment_).Text(data_);
    return file.str();
  }

 private:
  std::uint32_t version_ = 3;
  std::uint64_t tensor_count_ = 0, key_count_ = 0;
  bool claimed_tensors_ = false, claimed_keys_ = false;
  std::size_t alignment_ = 32;
  Bytes metadata_, infos_;
  std::string data_;
};

}  // namespace paritrace::testing
