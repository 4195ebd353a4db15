#include "trace/tensor_summary.h"

#include <algorithm>
#include <cstdint>

#include "core/hash.h"
#include "core/parallel.h"
#include "trace/digest.h"
#include "trace/tensor_stats.h"

namespace paritrace {

namespace {

// hash: nullptr where it is not wanted.
nlohmann::ordered_json Look(const TensorView& tensor, std::string_view site, bool digest, std::string* hash) {
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
    if (hash != nullptr) *hash = HashBytes(tensor.bytes);
    for (std::int64_t part = 0; part < parts; ++part) run(part);
  } else {
    // The hash first: it is the longest piece, and cannot be cut.
    const std::int64_t first = hash != nullptr ? 1 : 0;
    ParallelFor(parts + first, 1, [&](std::int64_t piece, std::int64_t) {
      if (piece >= first) return run(piece - first);
      *hash = HashBytes(tensor.bytes);
    });
  }
  nlohmann::ordered_json summary = {{"stats", stats.Json()}};
  if (digest) AddTo(summary, sketch.Digest());
  return summary;
}

}  // namespace

nlohmann::ordered_json Summarise(const TensorView& tensor, std::string_view site, bool digest) {
  return Look(tensor, site, digest, nullptr);
}

nlohmann::ordered_json SummariseAndHash(const TensorView& tensor, std::string_view site, bool digest,
                                        std::string& hash) {
  return Look(tensor, site, digest, &hash);
}

}  // namespace paritrace
