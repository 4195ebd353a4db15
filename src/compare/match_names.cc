#include "compare/match_names.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>

namespace paritrace {
namespace {

// Evidence from names alone never outweighs values that are as different as unrelated tensors.
constexpr double kMostOdds = 4;
// Below this many certain pairs a share says little, and what is usual stands in for what was learnt.
constexpr std::size_t kEnough = 8;

std::string Fold(std::string word) {
  struct Synonym {
    const char *from, *to;
  };
  static constexpr std::array kSynonyms = {
      Synonym{"ffn", "mlp"},
      Synonym{"feedforward", "mlp"},
      Synonym{"self", "attn"},
      Synonym{"attention", "attn"},
      Synonym{"query", "q"},
      Synonym{"qcur", "q"},
      Synonym{"wq", "q"},
      Synonym{"key", "k"},
      Synonym{"kcur", "k"},
      Synonym{"wk", "k"},
      Synonym{"value", "v"},
      Synonym{"vcur", "v"},
      Synonym{"wv", "v"},
      Synonym{"wo", "o"},
      Synonym{"output", "o"},
      Synonym{"out", "o"},
      Synonym{"layernorm", "norm"},
      Synonym{"rmsnorm", "norm"},
      Synonym{"ln", "norm"},
      Synonym{"embd", "embed"},
      Synonym{"embedding", "embed"},
      Synonym{"embeddings", "embed"},
      Synonym{"wte", "embed"},
      Synonym{"softmax", "probs"},
      Synonym{"blk", "layer"},
      Synonym{"block", "layer"},
      Synonym{"layers", "layer"},
      Synonym{"h", "layer"},
      Synonym{"lm", "logits"},
      Synonym{"rope", "rotary"},
  };
  for (const Synonym& synonym : kSynonyms) {
    if (word == synonym.from) return synonym.to;
  }
  return word;
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsLetter(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0; }

double Clamp(double odds) { return std::clamp(odds, -kMostOdds, kMostOdds); }

}  // namespace

NameParts SplitName(std::string_view name) {
  NameParts parts;
  for (std::size_t i = 0; i < name.size();) {
    std::size_t end = i + 1;
    if (IsDigit(name[i])) {
      while (end < name.size() && IsDigit(name[end])) ++end;
      std::int64_t value = 0;
      const auto read = std::from_chars(name.data() + i, name.data() + end, value);
      if (!parts.number && read.ec == std::errc()) {
        parts.number = value;
        parts.pattern += '#';
      } else {
        parts.pattern.append(name.substr(i, end - i));
      }
    } else if (IsLetter(name[i])) {
      while (end < name.size() && IsLetter(name[end])) ++end;
      std::string word(name.substr(i, end - i));
      parts.pattern += word;
      std::transform(word.begin(), word.end(), word.begin(), [](unsigned char c) { return std::tolower(c); });
      parts.words.insert(Fold(std::move(word)));
    } else {
      parts.pattern += name[i];
    }
    i = end;
  }
  return parts;
}

double WordSimilarity(const NameParts& a, const NameParts& b) {
  std::size_t common = 0;
  for (const std::string& word : a.words) common += b.words.count(word);
  const std::size_t all = a.words.size() + b.words.size() - common;
  return all == 0 ? 0 : static_cast<double>(common) / static_cast<double>(all);
}

NameEvidence::NameEvidence(std::vector<NameParts> reference, std::vector<NameParts> subject)
    : reference_(std::move(reference)), subject_(std::move(subject)) {
  for (const NameParts& parts : subject_) subject_share_[parts.pattern] += 1.0 / static_cast<double>(subject_.size());
  Learn({});
}

void NameEvidence::Learn(const Pairs& certain) {
  together_.clear();
  reference_pairs_.clear();
  std::map<std::int64_t, std::int64_t> offsets;
  std::int64_t numbered = 0;
  double similarity = 0;
  for (const auto& [r, s] : certain) {
    const NameParts &a = reference_[r], &b = subject_[s];
    ++together_[{a.pattern, b.pattern}];
    ++reference_pairs_[a.pattern];
    similarity += WordSimilarity(a, b) / static_cast<double>(certain.size());
    if (a.number && b.number) {
      ++numbered;
      ++offsets[*b.number - *a.number];
    }
  }
  std::set<std::int64_t> ours, theirs;
  for (const NameParts& parts : reference_) ours.insert(parts.number.value_or(-1));
  for (const NameParts& parts : subject_) theirs.insert(parts.number.value_or(-1));

  offset_ = 0;
  agree_ = disagree_ = 0;
  // By chance two numbers agree as often as one layer among all is hit.
  const double chance = 1.0 / static_cast<double>(std::max<std::size_t>(2, std::max(ours.size(), theirs.size())));
  double share = 0;
  // Layers are few, each in several names. Running numbers (t0001, t0002, …) are only the order once more.
  const auto are_layers = [](const std::set<std::int64_t>& numbers, std::size_t names) {
    return numbers.size() * 2 <= names;
  };
  const bool layers = are_layers(ours, reference_.size()) && are_layers(theirs, subject_.size());
  if (layers && numbered >= static_cast<std::int64_t>(kEnough)) {
    std::int64_t most = 0;
    for (const auto& [offset, count] : offsets) {
      if (count > most) {
        most = count;
        offset_ = offset;
      }
    }
    share = static_cast<double>(most) / static_cast<double>(numbered + 1);
  } else if (layers && ours == theirs) {
    share = 0.9;
  }
  if (share > 0.5) {
    agree_ = Clamp(std::log(share / chance));
    disagree_ = Clamp(std::log((1 - share) / (1 - chance)));
  }

  double all = 0;
  std::int64_t counted = 0;
  // A sample of unrelated pairs: what similarity is worth depends on what chance gives.
  for (std::size_t i = 0; i < reference_.size(); ++i) {
    for (const std::size_t shift : {std::size_t{3}, std::size_t{7}, std::size_t{11}}) {
      if (subject_.empty()) break;
      all +=
          WordSimilarity(reference_[i], subject_[(i * subject_.size() / reference_.size() + shift) % subject_.size()]);
      ++counted;
    }
  }
  word_base_ = counted > 0 ? all / static_cast<double>(counted) : 0;
  const bool helps = certain.size() < kEnough || similarity > word_base_ + 0.05;
  word_weight_ = helps ? 3 : 0;
}

double NameEvidence::PatternOdds(std::size_t reference, std::size_t subject, bool is_certain) const {
  const std::string &a = reference_[reference].pattern, &b = subject_[subject].pattern;
  const auto pairs = reference_pairs_.find(a);
  const auto together = together_.find({a, b});
  double all = pairs == reference_pairs_.end() ? 0 : static_cast<double>(pairs->second);
  double both = together == together_.end() ? 0 : static_cast<double>(together->second);
  if (is_certain) {
    all -= 1;
    both -= 1;
  }
  if (all <= 0) return 0;
  const double share = subject_share_.at(b);
  return std::log((both + share) / (all + 1) / share);
}

double NameEvidence::NumberOdds(std::size_t reference, std::size_t subject) const {
  const auto &a = reference_[reference].number, &b = subject_[subject].number;
  if (!a || !b) return 0;
  return *b - *a == offset_ ? agree_ : disagree_;
}

double NameEvidence::LogOdds(std::size_t reference, std::size_t subject, bool is_certain) const {
  const double words = word_weight_ * (WordSimilarity(reference_[reference], subject_[subject]) - word_base_);
  return Clamp(PatternOdds(reference, subject, is_certain)) + NumberOdds(reference, subject) + words;
}

}  // namespace paritrace
