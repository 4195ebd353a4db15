#include "trace/tensor_summary.h"

#include <algorithm>
#include <cstdint>

#include "core/parallel.h"
#include "trace/digest.h"
#include "trace/tensor_stats.h"

namespace paritrace {

nlohmann::ordered_json Summarise(const TensorView& tensor, std::string_view site, bool digest) {
  StatsOfParts stats(tensor, site);
  DigestOfParts sketch(tensor, site, digest);
  const std::int64_t parts = stats.parts() + sketch.parts();
  // Statistics and sketch of about the same values one after the other, while they are in a cache.
  const auto run = [&](std::int64_t part) {
    const std::int64_t both = 2 * std::min(stats.parts(), sketch.parts());
    if (part < both) return part % 2 == 0 ? stats.Run(part / 2) : sketch.Run(part / 2);
    return stats.parts() > sketch.parts() ? stats.Run(part - both / 2) : sketch.Run(part - both / 2);
  };
  if (tensor.size() < kSharedOutFrom) {
    for (std::int64_t part = 0; part < parts; ++part) run(part);
  } else {
    ParallelFor(parts, 1, [&](std::int64_t part, std::int64_t) { run(part); });
  }
  nlohmann::ordered_json summary = {{"stats", stats.Json()}};
  if (digest) AddTo(summary, sketch.Digest());
  return summary;
}

}  // namespace paritrace
