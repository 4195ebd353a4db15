// One writer a directory. Held by the process, not by a file: a killed writer leaves nothing behind that must be cleaned up.
#pragma once

#include <optional>
#include <string>

namespace paritrace {

class DirectoryLock {
 public:
  // nullopt: somebody else holds it. On a file system that knows no locks, everybody gets it.
  // Errors: UsageError if the directory cannot be opened.
  [[nodiscard]] static std::optional<DirectoryLock> Try(const std::string& directory);
  ~DirectoryLock();
  DirectoryLock(DirectoryLock&& other) noexcept;
  DirectoryLock& operator=(DirectoryLock&& other) noexcept;

 private:
  explicit DirectoryLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace paritrace
