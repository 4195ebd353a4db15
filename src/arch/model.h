// A model on disk: its config, its weights where they lie, and the graph that an architecture file built from them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "formats/tensor_file.h"
#include "graph/graph.h"

namespace paritrace {

struct SentenceModules;  // pooling.h

// The files of a model before anything is known of its architecture.
class ModelSource {
 public:
  // A Hugging Face folder (config.json and safetensors) or a .gguf file.
  // Errors: UsageError (nothing readable there), FormatError (a broken file).
  explicit ModelSource(const std::string& path);

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] bool is_gguf() const { return is_gguf_; }
  // config.json, or the GGUF's metadata.
  [[nodiscard]] const nlohmann::ordered_json& config() const { return config_; }
  [[nodiscard]] const std::string& config_file() const { return config_file_; }
  [[nodiscard]] const std::string& architecture() const { return architecture_; }

  // What a sentence-transformers folder puts behind the transformer; empty for any other model.
  [[nodiscard]] const SentenceModules& sentence_modules() const { return *modules_; }

  // nullptr if there is no tensor of that name.
  [[nodiscard]] const TensorView* Find(std::string_view name) const;

  // A number of the config. `fallback` where the key is absent or null; without one that is a FormatError naming the key.
  [[nodiscard]] std::int64_t Integer(std::string_view key) const;
  [[nodiscard]] std::int64_t Integer(std::string_view key, std::int64_t fallback) const;
  [[nodiscard]] double Number(std::string_view key) const;
  [[nodiscard]] double Number(std::string_view key, double fallback) const;
  [[nodiscard]] bool Flag(std::string_view key, bool fallback) const;
  [[nodiscard]] std::string Text(std::string_view key, std::string_view fallback) const;
  // The value at `key`, or null.
  [[nodiscard]] const nlohmann::ordered_json& At(std::string_view key) const;

  // FormatError about the config's `key`.
  [[noreturn]] void Refuse(std::string_view key, std::string_view expected, std::string_view found) const;

 private:
  void OpenFolder();
  void OpenGguf();

  std::string path_, config_file_, architecture_;
  bool is_gguf_ = false;
  nlohmann::ordered_json config_;
  std::vector<TensorFile> files_;
  std::shared_ptr<const SentenceModules> modules_;
};

struct Model {
  std::shared_ptr<const ModelSource> source;  // keeps the weights mapped
  Graph graph;
};

// No file of src/arch builds it: another oracle may (`diagnose --oracle torch`).
struct UnknownArchitectureError : UsageError {
  using UsageError::UsageError;
  std::string architecture;
  bool is_folder = false;  // of Hugging Face
};

// Opens a model and builds its graph.
// Errors: as ModelSource; UnknownArchitectureError; UsageError if an option of its config is not supported (named, never
// replaced by something near it); FormatError if a weight is missing or its shape disagrees with the config.
[[nodiscard]] Model LoadModel(const std::string& path);

// The names LoadModel supports, for messages.
[[nodiscard]] std::string SupportedArchitectures();

}  // namespace paritrace
