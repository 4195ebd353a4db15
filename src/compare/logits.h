// Compares the logits of two traces position by position, as a user of the model would feel it: distributions, the tokens
// that win, and whether greedy decoding would have gone another way.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "compare/diff.h"

namespace paritrace {

struct RankedLogit {
  std::int64_t id = 0;
  double logit = 0, probability = 0;
};

struct LogitsPosition {
  int step = 0;
  std::int64_t position = 0;  // absolute
  double cosine = 1, l2 = 0, max_abs = 0;
  double kl_forward = 0, kl_backward = 0;                 // nats: KL(reference || subject) and the other way
  std::int64_t top_reference = 0, top_subject = 0;        // the winning token; the lowest id where several tie
  std::vector<RankedLogit> best_reference, best_subject;  // the k best of each side, the best first
  double top_k_shared = 1;           // share of the reference's k best that are among the subject's k best
  std::int64_t rank_in_subject = 1;  // of the reference's winner; 1: it wins there too
  double margin_reference = 0, margin_subject = 0;  // winner minus runner-up
  // The reference's logit of its own winner minus that of the subject's: what noise must overcome. 0 where they agree.
  double margin_to_flip = 0;
  double noise = 0;       // rms of the difference at this position
  bool finite = true;     // false: NaN or infinity somewhere in the row; then only the tokens' counts are meant
  bool diverged = false;  // more than rounding explains
  bool greedy_differs = false;
  bool benign_tie = false;  // greedy differs, and the margin is inside the noise of a row that rounding explains
};

struct LogitsResult {
  Verdict verdict = Verdict::kIncomparable;
  std::string reason;  // where incomparable
  DiffResult diff;     // of the site `logits` only: headers, paths, tokens, rounding
  int top_k = 10;
  std::vector<LogitsPosition> positions;               // in order
  std::optional<std::size_t> first_diverged;           // index into positions
  std::optional<std::size_t> first_greedy_difference;  // benign ones too

  [[nodiscard]] double TopAgreement() const;   // share of positions with one winner
  [[nodiscard]] double TopKAgreement() const;  // mean of top_k_shared
  [[nodiscard]] double MeanKl() const;         // of the finite positions, forward
};

// Errors: UsageError if top_k < 1.
[[nodiscard]] LogitsResult CompareLogits(const Trace& reference, const Trace& subject, int top_k = 10);

// One position: rows of `count` logits.
[[nodiscard]] LogitsPosition CompareLogitRows(const double* reference, const double* subject, std::int64_t count,
                                              int top_k);

}  // namespace paritrace
