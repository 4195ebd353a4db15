#include "core/output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"

namespace paritrace {

OutputFile::OutputFile(std::string path, Mode mode)
    : path_(std::move(path)),
      written_path_(mode == Mode::kAtomic ? fmt::format("{}.{}.tmp", path_, ::getpid()) : path_) {
  fd_ = ::open(written_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd_ < 0) Fail(errno);
}

OutputFile::~OutputFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  if (written_path_ != path_) (void)std::remove(written_path_.c_str());
}

void OutputFile::Append(std::span<const std::byte> bytes) {
  Write(size_, bytes);
  size_ += bytes.size();
}

void OutputFile::WriteAt(std::uint64_t offset, std::span<const std::byte> bytes) {
  if (offset > size_ || bytes.size() > size_ - offset) throw InternalError("write beyond the end of " + path_);
  Write(offset, bytes);
}

void OutputFile::Publish() {
  if (written_path_ == path_) return;
  if (std::rename(written_path_.c_str(), path_.c_str()) != 0) Fail(errno);
  written_path_ = path_;
}

void OutputFile::Commit() {
  Publish();
  // Network and quota file systems report a failed write only here.
  if (::close(std::exchange(fd_, -1)) != 0) Fail(errno);
}

void OutputFile::Fail(int error) const {
  throw UsageError(fmt::format("{}: cannot be written: {}", path_, std::strerror(error)));
}

void OutputFile::Write(std::uint64_t offset, std::span<const std::byte> bytes) {
  if (fd_ < 0) throw InternalError("write to the finished " + path_);
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) Fail(written < 0 ? errno : ENOSPC);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    offset += static_cast<std::uint64_t>(written);
  }
}

}  // namespace paritrace
