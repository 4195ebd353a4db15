// The texts of a model's tokens, to name them in a report. Not a tokenizer: it splits nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace paritrace {

class Vocabulary {
 public:
  Vocabulary() = default;
  explicit Vocabulary(std::vector<std::string> texts) : texts_(std::move(texts)) {}
  [[nodiscard]] bool empty() const { return texts_.empty(); }
  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(texts_.size()); }

  // The token's bytes, which may be a part of a character; "" for an id without a text.
  [[nodiscard]] const std::string& Text(std::int64_t id) const;

  // For people: 403 "\" once\"", in quotes with line feeds and the like escaped; only the number where no text is known.
  [[nodiscard]] std::string Name(std::int64_t id) const;

 private:
  std::vector<std::string> texts_;  // by id
};

// From a Hugging Face tokenizer.json, a folder that holds one, or a .gguf with a vocabulary.
// Byte-level pieces (GPT-2's 256 letters for 256 bytes), "▁" for a space and "<0x0A>" for a byte are decoded.
// Errors: UsageError if there is no such file; FormatError if it is broken or holds no vocabulary.
[[nodiscard]] Vocabulary LoadVocabulary(const std::string& path);

// Of the first of these model folders and files that has one. Texts are a help, not a need: what is not there or broken is
// passed over, and an empty vocabulary comes back where none is left.
[[nodiscard]] Vocabulary FindVocabulary(const std::vector<std::string>& models);

// The texts of a run's tokens (trace header: one list a sequence), by position of the first sequence, from FindVocabulary;
// empty where nothing is known.
[[nodiscard]] std::vector<std::string> TokenTexts(const std::vector<std::string>& models,
                                                  const std::vector<std::vector<std::int64_t>>& tokens);

}  // namespace paritrace
