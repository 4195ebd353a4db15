#include "cli/progress.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>

#include <fmt/format.h>

namespace paritrace::cli {

std::function<void(std::size_t, std::size_t)> ProgressLine(std::string what, std::string unit) {
  if (::isatty(STDERR_FILENO) == 0) return {};
  using Clock = std::chrono::steady_clock;
  struct State {
    Clock::time_point start = Clock::now(), drawn = start;
    bool visible = false;
  };
  return [what = std::move(what), unit = std::move(unit), state = std::make_shared<State>()](std::size_t done,
                                                                                             std::size_t total) {
    const auto now = Clock::now();
    if (done == total) {
      if (state->visible) fmt::print(stderr, "\r\033[K");
      state->visible = false;
      return;
    }
    if (now - state->start < std::chrono::seconds(1) || now - state->drawn < std::chrono::milliseconds(100)) return;
    state->drawn = now;
    state->visible = true;
    const double elapsed = std::chrono::duration<double>(now - state->start).count();
    const double left = elapsed * static_cast<double>(total - done) / static_cast<double>(done > 0 ? done : 1);
    const std::string rate =
        unit.empty() ? "" : fmt::format(", {:.2f} G {}/s", 1e-9 * static_cast<double>(done) / elapsed, unit);
    fmt::print(stderr, "\r\033[K{}: {:3.0f} %{}, {:.0f} s left", what,
               100.0 * static_cast<double>(done) / static_cast<double>(total), rate, left);
  };
}

}  // namespace paritrace::cli
