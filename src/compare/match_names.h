// What two names say about whether they mean the same tensor, learnt from the pairs that the values alone make certain.
// Nothing here knows an engine: that `Qcur-3:MUL_MAT` goes with `layers.3.self_attn.q_proj` is learnt in a layer where the
// values agree and used in one where they do not. Names without meaning (`t0001`) learn to say nothing.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace paritrace {

// A name cut into a pattern and the number in it that may be a layer.
struct NameParts {
  std::string pattern;                 // the first number as '#'
  std::optional<std::int64_t> number;  // that number; none where the name has no digits (or too many for an int64)
  std::set<std::string> words;         // lower case, common synonyms folded ("ffn" is "mlp")
};
[[nodiscard]] NameParts SplitName(std::string_view name);

// Share of words in common, 0..1 (Jaccard).
[[nodiscard]] double WordSimilarity(const NameParts& a, const NameParts& b);

class NameEvidence {
 public:
  using Pairs = std::vector<std::pair<std::size_t, std::size_t>>;  // index into reference, into subject
  NameEvidence(std::vector<NameParts> reference, std::vector<NameParts> subject);

  // Learns from pairs that are certain without the names.
  void Learn(const Pairs& certain);

  // Log odds that the two names mean one tensor, at most some units either way; 0: they say nothing.
  // `is_certain`: the pair is one of those learnt from, and is left out of the counting.
  [[nodiscard]] double LogOdds(std::size_t reference, std::size_t subject, bool is_certain) const;

 private:
  [[nodiscard]] double PatternOdds(std::size_t reference, std::size_t subject, bool is_certain) const;
  [[nodiscard]] double NumberOdds(std::size_t reference, std::size_t subject) const;

  std::vector<NameParts> reference_, subject_;
  std::map<std::string, double> subject_share_;  // of a pattern among all subject names
  std::map<std::pair<std::string, std::string>, std::int64_t> together_;
  std::map<std::string, std::int64_t> reference_pairs_;
  std::int64_t offset_ = 0;  // subject's number minus reference's, in most certain pairs
  double agree_ = 0, disagree_ = 0, word_weight_ = 0, word_base_ = 0;
};

}  // namespace paritrace
