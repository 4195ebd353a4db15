#include "trace/tensor_summary.h"

#include <string>

#include "core/hash.h"
#include "core/parallel.h"
#include "trace/digest.h"
#include "trace/tensor_stats.h"

namespace paritrace {

void Summarise(const TensorView& tensor, std::string_view site, bool digest, nlohmann::ordered_json& index) {
  std::string hash;
  StatsOfParts stats(tensor, site);
  DigestOfParts sketch(tensor, site, digest);
  // The hash goes from front to back and cannot be shared out, so it is a part of its own beside the others. It comes last:
  // what a single thread does then finds the values in its cache.
  const std::int64_t parts = stats.parts() + sketch.parts() + 1;
  const auto run = [&](std::int64_t part) {
    if (part < sketch.parts()) return sketch.Run(part);
    part -= sketch.parts();
    if (part < stats.parts()) return stats.Run(part);
    hash = HashBytes(tensor.bytes);
  };
  if (tensor.size() < kSharedOutFrom) {
    for (std::int64_t part = 0; part < parts; ++part) run(part);
  } else {
    ParallelFor(parts, 1, [&](std::int64_t begin, std::int64_t) { run(parts - 1 - begin); });
  }
  index["hash"] = std::move(hash);
  index["stats"] = stats.Json();
  if (digest) AddTo(index, sketch.Digest());
}

}  // namespace paritrace
