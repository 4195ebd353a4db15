#include "compare/tokens.h"

#include <algorithm>

#include <fmt/format.h>

namespace paritrace {
namespace {

using Tokens = std::vector<std::int64_t>;

// True if `longer` without its first `count` tokens agrees with `shorter` as far as both go, on at least one token.
bool FollowsAfter(const Tokens& longer, const Tokens& shorter, std::size_t count) {
  if (longer.size() <= count || shorter.empty()) return false;
  const std::size_t common = std::min(longer.size() - count, shorter.size());
  return std::equal(shorter.begin(), shorter.begin() + static_cast<std::ptrdiff_t>(common),
                    longer.begin() + static_cast<std::ptrdiff_t>(count));
}

// How many tokens stand at the front of `longer` that `shorter` lacks; 0: it is not that.
// At least half of the shorter side must then agree, so that a chance match at the end does not count.
std::size_t ExtraInFront(const Tokens& longer, const Tokens& shorter) {
  const std::size_t most = std::min(longer.size(), shorter.size());
  for (std::size_t count = 1; count <= most; ++count) {
    const bool enough = std::min(longer.size() - count, shorter.size()) * 2 >= shorter.size();
    if (enough && FollowsAfter(longer, shorter, count)) return count;
  }
  return 0;
}

void Explain(const Tokens& reference, const Tokens& subject, TokenMismatch& mismatch) {
  const std::size_t more = ExtraInFront(subject, reference), less = ExtraInFront(reference, subject);
  const std::string where =
      fmt::format("the tokens differ from position {} on ({} in the reference, {} in the subject)", mismatch.position,
                  *mismatch.reference, *mismatch.subject);
  mismatch.extra_in_front =
      more > 0 ? static_cast<std::int64_t>(more) : -static_cast<std::int64_t>(less);  // 0 where neither
  if (more == 1) {
    mismatch.cause = "tokens.bos";
    mismatch.statement = fmt::format("{}: the subject has one token more in front, {}, as if BOS were added {}", where,
                                     subject.front(), subject.front() == reference.front() ? "twice" : "by it only");
  } else if (less == 1) {
    mismatch.cause = "tokens.bos";
    mismatch.statement =
        fmt::format("{}: the subject lacks the first token, {}, as if BOS were added {}", where, reference.front(),
                    subject.front() == reference.front() ? "twice by the reference" : "by the reference only");
  } else if (more > 1 || less > 1) {
    mismatch.cause = "tokens.shift";
    const Tokens& longer = more > 1 ? subject : reference;
    const auto extra = static_cast<std::ptrdiff_t>(std::max(more, less));
    const bool padding = std::all_of(longer.begin(), longer.begin() + extra,
                                     [&](std::int64_t token) { return token == longer.front(); });
    mismatch.statement = fmt::format("{}: the subject has {} tokens {} in front{}; the rest is the same", where, extra,
                                     more > 1 ? "more" : "less",
                                     padding ? fmt::format(", all {}, as if the {} were padded on the left",
                                                           longer.front(), more > 1 ? "subject" : "reference")
                                             : "");
  } else {
    mismatch.cause = "tokens.ids";
    mismatch.statement = where;
  }
}

}  // namespace

std::optional<TokenMismatch> CompareTokens(const std::vector<Tokens>& reference, const std::vector<Tokens>& subject) {
  if (reference.empty() || subject.empty()) return std::nullopt;
  TokenMismatch mismatch;
  for (std::size_t i = 0; i < std::min(reference.size(), subject.size()); ++i) {
    const Tokens &a = reference[i], &b = subject[i];
    const std::size_t common = std::min(a.size(), b.size());
    const auto at = static_cast<std::size_t>(
        std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(common), b.begin()).first - a.begin());
    if (at == common) continue;
    mismatch.sequence = i;
    mismatch.position = static_cast<std::int64_t>(at);
    mismatch.reference = a[at];
    mismatch.subject = b[at];
    Explain(a, b, mismatch);
    return mismatch;
  }
  if (reference.size() == subject.size()) return std::nullopt;
  mismatch.sequence = std::min(reference.size(), subject.size());
  mismatch.cause = "tokens.ids";
  mismatch.statement = fmt::format("the reference ran {} sequences, the subject {}", reference.size(), subject.size());
  return mismatch;
}

}  // namespace paritrace
