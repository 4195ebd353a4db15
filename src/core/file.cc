#include "core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include <fmt/format.h>

#include "core/error.h"

namespace paritrace {
namespace {

UsageError CannotOpen(const std::string& path, std::string_view why) {
  return UsageError(fmt::format("{}: cannot be read: {}", path, why));
}

class MappedFile final : public InputFile {
 public:
  explicit MappedFile(const std::string& path) : name_(path) {
    // O_NONBLOCK: a named pipe in somebody's trace must be refused below, not waited for.
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) throw CannotOpen(path, std::strerror(errno));
    struct stat info {};
    if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
      ::close(fd);
      throw CannotOpen(path, S_ISDIR(info.st_mode) ? "it is a directory" : "it is not a regular file");
    }
    size_ = static_cast<std::size_t>(info.st_size);
    if (size_ > 0) {
      void* at = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0);
      const int error = errno;
      ::close(fd);
      if (at == MAP_FAILED) throw CannotOpen(path, std::strerror(error));
      data_ = static_cast<const std::byte*>(at);
    } else {
      ::close(fd);
    }
  }
  ~MappedFile() override {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] std::span<const std::byte> bytes() const override { return {data_, size_}; }

 private:
  std::string name_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace

bool InputFile::StartsWith(std::string_view magic) const {
  const auto all = bytes();
  return all.size() >= magic.size() && std::memcmp(all.data(), magic.data(), magic.size()) == 0;
}

std::shared_ptr<const InputFile> MapFile(const std::string& path) { return std::make_shared<MappedFile>(path); }

std::span<const std::byte> ByteReader::Take(std::uint64_t size, std::string_view what) {
  if (size > left()) {  // not "offset + size > total": a hostile size would wrap
    throw FormatError(file_, offset_, fmt::format("{} bytes of {}", size, what), fmt::format("{} bytes left", left()));
  }
  const auto taken = bytes_.subspan(offset_, size);
  offset_ += size;
  return taken;
}

std::string ReadTextFile(const std::string& path, std::uint64_t limit) {
  const auto file = MapFile(path);
  const auto bytes = file->bytes();
  if (bytes.size() > limit) {
    throw FormatError(path, 0, fmt::format("at most {} bytes", limit), fmt::format("{} bytes", bytes.size()));
  }
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void WriteFileAtomically(const std::string& path, std::string_view contents) {
  if (path == "-") {
    if (std::fwrite(contents.data(), 1, contents.size(), stdout) != contents.size() || std::fflush(stdout) != 0) {
      throw UsageError(fmt::format("standard output: cannot be written: {}", std::strerror(errno)));
    }
    return;
  }
  const std::string temporary = fmt::format("{}.{}.tmp", path, ::getpid());
  std::FILE* file = std::fopen(temporary.c_str(), "wb");
  if (file == nullptr) throw UsageError(fmt::format("{}: cannot be written: {}", path, std::strerror(errno)));
  const bool written = std::fwrite(contents.data(), 1, contents.size(), file) == contents.size();
  const bool closed = std::fclose(file) == 0;
  if (!written || !closed || std::rename(temporary.c_str(), path.c_str()) != 0) {
    const std::string why = std::strerror(errno);
    (void)std::remove(temporary.c_str());
    throw UsageError(fmt::format("{}: cannot be written: {}", path, why));
  }
}

}  // namespace paritrace
