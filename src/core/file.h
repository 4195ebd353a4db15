// Input files: mapped, never copied; and a cursor that checks every size before it is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace paritrace {

// The bytes of a file and the name users know it by. Bytes stay valid as long as the object lives.
class InputFile {
 public:
  virtual ~InputFile() = default;
  [[nodiscard]] virtual const std::string& name() const = 0;
  [[nodiscard]] virtual std::span<const std::byte> bytes() const = 0;
  [[nodiscard]] bool StartsWith(std::string_view magic) const;
};

// Maps a regular file read-only. Errors: UsageError naming the path and the reason (missing, a directory, not readable).
[[nodiscard]] std::shared_ptr<const InputFile> MapFile(const std::string& path);

// Bytes somebody else owns (tests, fuzz targets).
class MemoryFile final : public InputFile {
 public:
  MemoryFile(std::string name, std::span<const std::byte> bytes) : name_(std::move(name)), bytes_(bytes) {}
  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] std::span<const std::byte> bytes() const override { return bytes_; }

 private:
  std::string name_;
  std::span<const std::byte> bytes_;
};

// Reads forward; every Take is checked against what is left. Little-endian.
class ByteReader {
 public:
  ByteReader(const std::string& file, std::span<const std::byte> bytes) : file_(file), bytes_(bytes) {}

  // Errors: FormatError with the offset, the wanted size and `what`.
  std::span<const std::byte> Take(std::uint64_t size, std::string_view what);
  template <typename T>
  T Read(std::string_view what);
  [[nodiscard]] std::uint64_t offset() const { return offset_; }
  [[nodiscard]] std::uint64_t left() const { return bytes_.size() - offset_; }
  [[nodiscard]] const std::string& file() const { return file_; }

 private:
  std::string file_;
  std::span<const std::byte> bytes_;
  std::uint64_t offset_ = 0;
};

template <typename T>
T ByteReader::Read(std::string_view what) {
  T value;
  const auto bytes = Take(sizeof(T), what);
  __builtin_memcpy(&value, bytes.data(), sizeof(T));
  return value;
}

// Whole text of a small file (a config, a header). Errors: UsageError; FormatError if larger than `limit` bytes.
[[nodiscard]] std::string ReadTextFile(const std::string& path, std::uint64_t limit = 256ull << 20);

// Writes a file so that it is either whole or absent: a temporary neighbour, then rename. "-" is standard output.
void WriteFileAtomically(const std::string& path, std::string_view contents);

}  // namespace paritrace
