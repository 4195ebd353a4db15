#include "formats/vocabulary.h"

#include <array>
#include <charconv>
#include <filesystem>
#include <map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"
#include "formats/json.h"
#include "formats/tensor_file.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

// Larger ids are no vocabulary but an attempt to make us allocate.
constexpr std::int64_t kMostTokens = 1 << 24;

std::string Utf8(std::uint32_t code) {
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

// GPT-2's bytes_to_unicode: printable bytes stand for themselves, the other 68 for U+0100 and on.
const std::map<std::string, char>& ByteLetters() {
  static const std::map<std::string, char> letters = [] {
    std::map<std::string, char> map;
    std::uint32_t next = 0x100;
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      map[Utf8(printable ? byte : next++)] = static_cast<char>(byte);
    }
    return map;
  }();
  return letters;
}

std::string FromByteLetters(const std::string& piece) {
  std::string text;
  for (std::size_t i = 0; i < piece.size();) {
    const std::size_t length = static_cast<unsigned char>(piece[i]) < 0x80 ? 1 : 2;
    const auto letter = ByteLetters().find(piece.substr(i, length));
    if (letter == ByteLetters().end()) return piece;  // an added token, written as it is
    text += letter->second;
    i += length;
  }
  return text;
}

std::string FromSentencePiece(const std::string& piece) {
  if (piece.size() == 6 && piece.starts_with("<0x") && piece.back() == '>') {
    unsigned byte = 0;
    if (std::from_chars(piece.data() + 3, piece.data() + 5, byte, 16).ptr == piece.data() + 5)
      return {static_cast<char>(byte)};
  }
  constexpr std::string_view kSpace = "▁";
  std::string text = piece;
  for (std::size_t at = 0; (at = text.find(kSpace, at)) != std::string::npos; ++at)
    text.replace(at, kSpace.size(), " ");
  return text;
}

void Put(std::vector<std::string>& texts, std::int64_t id, std::string text, const std::string& file) {
  if (id < 0 || id >= kMostTokens) throw FormatError(file, "vocabulary", "a token id", fmt::format("{}", id));
  if (static_cast<std::size_t>(id) >= texts.size()) texts.resize(static_cast<std::size_t>(id) + 1);
  texts[static_cast<std::size_t>(id)] = std::move(text);
}

Vocabulary FromTokenizerJson(const std::string& path) {
  const Json json = ParseJson(ReadTextFile(path), path, "tokenizer");
  if (!json.is_object()) throw FormatError(path, "tokenizer", "an object", Describe(json));
  const Json model = json.value("model", Json::object());
  const auto vocab = model.is_object() ? model.find("vocab") : model.end();
  if (!model.is_object() || vocab == model.end()) throw FormatError(path, "\"model\"", "a \"vocab\"", "none");
  std::vector<std::string> pieces;
  if (vocab->is_object()) {
    for (const auto& [piece, id] : vocab->items()) {
      if (!id.is_number_integer()) throw FormatError(path, "\"vocab\"", "a token id", Describe(id));
      Put(pieces, id.get<std::int64_t>(), piece, path);
    }
  } else if (vocab->is_array()) {  // unigram: [[piece, score], …], the place is the id
    for (const Json& entry : *vocab) {
      const bool is_piece = entry.is_array() && !entry.empty() && entry[0].is_string();
      if (!is_piece) throw FormatError(path, "\"vocab\"", "[piece, score]", Describe(entry));
      pieces.push_back(entry[0].get<std::string>());
    }
  } else {
    throw FormatError(path, "\"vocab\"", "an object or a list", Describe(*vocab));
  }
  // Byte-level tokenizers say so in one of several places; the letter that stands for a space gives them all away.
  bool byte_level = false;
  for (const std::string& piece : pieces) byte_level = byte_level || piece.starts_with("Ġ");
  for (std::string& piece : pieces) piece = byte_level ? FromByteLetters(piece) : FromSentencePiece(piece);
  const Json added = json.value("added_tokens", Json::array());
  for (const Json& token : added.is_array() ? added : Json::array()) {
    if (!token.is_object() || !token.contains("id") || !token["id"].is_number_integer()) continue;
    if (token.contains("content") && token["content"].is_string()) {
      Put(pieces, token["id"].get<std::int64_t>(), token["content"].get<std::string>(), path);
    }
  }
  return Vocabulary(std::move(pieces));
}

Vocabulary FromGguf(const std::string& path) {
  const TensorFile file = OpenTensorFile(path);
  const auto tokens = file.metadata.find("tokenizer.ggml.tokens");
  if (tokens == file.metadata.end() || !tokens->is_array())
    throw FormatError(path, "metadata", "\"tokenizer.ggml.tokens\"", "none");
  const auto model = file.metadata.find("tokenizer.ggml.model");
  const bool byte_level = model != file.metadata.end() && *model == "gpt2";
  std::vector<std::string> texts;
  for (const Json& token : *tokens) {
    if (!token.is_string()) throw FormatError(path, "\"tokenizer.ggml.tokens\"", "strings", Describe(token));
    const auto piece = token.get<std::string>();
    texts.push_back(byte_level ? FromByteLetters(piece) : FromSentencePiece(piece));
  }
  return Vocabulary(std::move(texts));
}

}  // namespace

const std::string& Vocabulary::Text(std::int64_t id) const {
  static const std::string none;
  return id >= 0 && id < size() ? texts_[static_cast<std::size_t>(id)] : none;
}

std::string Vocabulary::Name(std::int64_t id) const {
  const std::string& text = Text(id);
  if (text.empty()) return fmt::format("{}", id);
  return fmt::format("{} {}", id, Json(text).dump(-1, ' ', false, Json::error_handler_t::replace));
}

Vocabulary LoadVocabulary(const std::string& path) {
  const std::filesystem::path asked(path);
  std::error_code ignored;
  if (std::filesystem::is_directory(asked, ignored)) return FromTokenizerJson((asked / "tokenizer.json").string());
  if (asked.extension() == ".json") return FromTokenizerJson(path);
  return FromGguf(path);
}

Vocabulary FindVocabulary(const std::vector<std::string>& models) {
  for (const std::string& model : models) {
    std::error_code ignored;
    const std::filesystem::path file(model);
    const bool folder = std::filesystem::exists(file / "tokenizer.json", ignored);
    const bool gguf = file.extension() == ".gguf" && std::filesystem::is_regular_file(file, ignored);
    if (model.empty() || (!folder && !gguf)) continue;
    try {
      return LoadVocabulary(model);
    } catch (const std::exception&) {
    }
  }
  return {};
}

std::vector<std::string> TokenTexts(const std::vector<std::string>& models,
                                    const std::vector<std::vector<std::int64_t>>& tokens) {
  std::vector<std::string> texts;
  if (tokens.empty()) return texts;
  const Vocabulary vocabulary = FindVocabulary(models);
  if (vocabulary.empty()) return texts;
  for (const std::int64_t id : tokens[0]) texts.push_back(vocabulary.Text(id));
  return texts;
}

}  // namespace paritrace
