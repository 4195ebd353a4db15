// The kinds of failure the program knows, each with the one line a user reads.
// Thrown anywhere, caught once (cli/main.cc), so that every bad input ends the same way: one line, a known exit code.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace paritrace {

// A file is broken or hostile. `place` says where ("at byte 4128", "line 7", "tensor \"w\"").  Exit code 2.
//   what(): FILE: PLACE: expected EXPECTED, found FOUND
class FormatError : public std::runtime_error {
 public:
  FormatError(std::string_view file, std::string_view place, std::string_view expected, std::string_view found);
  FormatError(std::string_view file, std::uint64_t byte_offset, std::string_view expected, std::string_view found);
};

// The command line, an option or a config asks for something that cannot be done.  Exit code 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The two sides have nothing in common that could be compared: other tokens, other model, no shared site.  Exit code 3.
class IncomparableError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A broken promise of our own code, with the place that noticed.  Exit code 70 (EX_SOFTWARE).
class InternalError : public std::logic_error {
 public:
  // The defaults name the throw site. Not std::source_location: clang 14, which fuzzes and lints us, does not have it.
  explicit InternalError(std::string_view what, const char* file = __builtin_FILE(), int line = __builtin_LINE());
};

}  // namespace paritrace
