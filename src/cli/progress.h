// A line on standard error while long work runs; silent where that is no terminal, and for work under a second.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

namespace paritrace::cli {

// The callback redraws at most ten times a second and wipes its line when done == total.
//   unit: of what is counted, for a rate in thousands of millions a second; "": no rate.
[[nodiscard]] std::function<void(std::size_t done, std::size_t total)> ProgressLine(std::string what,
                                                                                    std::string unit = "");

}  // namespace paritrace::cli
