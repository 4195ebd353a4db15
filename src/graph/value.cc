#include "graph/value.h"

#include <algorithm>

namespace paritrace {

void ReorderHeads(Value& value, std::int64_t head_dim, bool to_interleaved) {
  const auto half = static_cast<std::size_t>(head_dim / 2);
  std::vector<double> head(static_cast<std::size_t>(head_dim));
  for (std::size_t start = 0; start + head.size() <= value.data.size(); start += head.size()) {
    double* lanes = value.data.data() + start;
    std::copy_n(lanes, head.size(), head.begin());
    for (std::size_t i = 0; i < half; ++i) {
      if (to_interleaved) {
        lanes[2 * i] = head[i];
        lanes[2 * i + 1] = head[i + half];
      } else {
        lanes[i] = head[2 * i];
        lanes[i + half] = head[2 * i + 1];
      }
    }
  }
}

}  // namespace paritrace
