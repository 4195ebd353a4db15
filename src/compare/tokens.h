// Whether two runs were fed the same tokens, and what kind of mistake it is where they were not.
// The first thing a comparison asks: on other tokens every activation differs and says nothing about the engine.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace paritrace {

struct TokenMismatch {
  std::size_t sequence = 0;
  std::int64_t position = 0;                       // the first that differs
  std::optional<std::int64_t> reference, subject;  // the tokens there; none where that side has no such sequence
  std::int64_t extra_in_front = 0;  // tokens that only the subject has in front; below 0: only the reference
  std::string cause;                // "tokens.bos", "tokens.shift" or "tokens.ids" of the contract
  std::string statement;            // one sentence for people
};

// nullopt: the same, or unknown on some side. One list continuing where the other ends is no mismatch (more steps decoded).
[[nodiscard]] std::optional<TokenMismatch> CompareTokens(const std::vector<std::vector<std::int64_t>>& reference,
                                                         const std::vector<std::vector<std::int64_t>>& subject);

}  // namespace paritrace
