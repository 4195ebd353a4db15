// A file under construction. Every write reaches the operating system at once: what was written survives a kill.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace paritrace {

class OutputFile {
 public:
  enum class Mode {
    kInPlace,  // visible at its path from the start, and left there whatever happens
    kAtomic,   // written beside its path; appears there, replacing what was, on Commit; removed if that never comes
  };

  // Creates or empties the file. Errors here and below: UsageError naming the path and the reason.
  OutputFile(std::string path, Mode mode);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void Append(std::span<const std::byte> bytes);
  void Append(std::string_view text) { Append(std::as_bytes(std::span(text))); }
  // Replaces bytes within what was written so far.
  void WriteAt(std::uint64_t offset, std::span<const std::byte> bytes);
  void WriteAt(std::uint64_t offset, std::string_view text) { WriteAt(offset, std::as_bytes(std::span(text))); }
  // Puts an atomic file at its path, open for more writes; from now on it is as if in place.
  void Publish();
  // Publishes and closes. Nothing may be written afterwards.
  void Commit();

  [[nodiscard]] std::uint64_t size() const { return size_; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  [[noreturn]] void Fail(int error) const;
  void Write(std::uint64_t offset, std::span<const std::byte> bytes);

  std::string path_, written_path_;
  int fd_ = -1;
  std::uint64_t size_ = 0;
};

}  // namespace paritrace
