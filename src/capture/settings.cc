#include "capture/settings.h"

#include <charconv>
#include <cstdlib>
#include <limits>
#include <string_view>

#include <fmt/format.h>

#include "core/error.h"
#include "core/text.h"
#include "trace/record_queue.h"

namespace paritrace {
namespace {

std::string_view Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::optional<std::int64_t> Number(const char* name, std::int64_t most) {
  const std::string_view text = Variable(name);
  if (text.empty()) return std::nullopt;
  std::int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 0 || value > most)
    throw UsageError(fmt::format("{}: expected a number from 0 to {}, found {}", name, most, Quoted(text)));
  return value;
}

TraceWriter::Mode Mode() {
  const std::string_view text = Variable("PARITRACE_MODE");
  if (text.empty() || text == "full") return TraceWriter::Mode::kFull;
  if (text == "digest") return TraceWriter::Mode::kDigest;
  if (text == "stats") return TraceWriter::Mode::kStats;
  throw UsageError(fmt::format("PARITRACE_MODE: expected full, digest or stats, found {}", Quoted(text)));
}

std::optional<int> Rank() {
  for (const char* name : {"PARITRACE_RANK", "RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"}) {
    if (const auto rank = Number(name, 999'999)) return static_cast<int>(*rank);
  }
  return std::nullopt;
}

}  // namespace

CaptureSettings ReadCaptureSettings() {
  constexpr std::int64_t kMostMegabytes = 1 << 20;
  CaptureSettings settings;
  settings.directory = Variable("PARITRACE_DIR");
  settings.mode = Mode();
  settings.sites = Variable("PARITRACE_SITES");
  settings.steps = Variable("PARITRACE_STEPS");
  settings.overwrite = Number("PARITRACE_OVERWRITE", 1) == 1;
  const auto megabytes = Number("PARITRACE_BUFFER_MB", kMostMegabytes);
  settings.buffer_bytes = megabytes ? static_cast<std::uint64_t>(*megabytes) << 20 : RecordQueue::kBufferBytes;
  settings.rank = Rank();
  return settings;
}

}  // namespace paritrace
