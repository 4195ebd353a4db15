// Many sites told in few words: "attn.q_rope and attn.k_rope of layers 0-4".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace paritrace {

[[nodiscard]] std::string DescribeSites(const std::vector<std::string>& sites);

// {0, 1, 2, 5} -> "0-2, 5"
[[nodiscard]] std::string DescribeNumbers(const std::vector<std::int64_t>& numbers);

// "layers.3.attn.q" -> "attn.q"; other sites as they are. layer: 3, or -1.
[[nodiscard]] std::string RoleOf(const std::string& site, int* layer = nullptr);

}  // namespace paritrace
