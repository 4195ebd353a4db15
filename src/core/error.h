// The kinds of failure the program knows, each with the one line a user reads.
// Thrown anywhere, caught once (cli/main.cc), so that every bad input ends the same way: one line, a known exit code.
#pragma once

#include <cstdint>
#include <source_location>
#include <stdexcept>
#include <string>

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
  explicit InternalError(std::string_view what, std::source_location where = std::source_location::current());
};

}  // namespace paritrace
