#include <algorithm>
#include <filesystem>
#include <set>

#include <fmt/format.h>

#include "arch/model.h"
#include "arch/pooling.h"
#include "core/error.h"

namespace paritrace {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

Json ParseConfig(const std::string& file) {
  Json config;
  try {
    config = Json::parse(ReadTextFile(file));
  } catch (const nlohmann::json::parse_error& error) {
    throw FormatError(file, error.byte, "valid JSON", error.what());
  }
  if (!config.is_object()) throw FormatError(file, "top level", "a JSON object", config.type_name());
  return config;
}

// The safetensors files of a folder: those its index names, else model.safetensors, else all there are.
std::vector<std::string> WeightFiles(const fs::path& folder) {
  const fs::path index = folder / "model.safetensors.index.json";
  std::set<std::string> names;
  if (fs::exists(index)) {
    const Json json = ParseConfig(index.string());
    if (!json.contains("weight_map") || !json["weight_map"].is_object()) {
      throw FormatError(index.string(), "weight_map", "an object of tensor names and files", "none");
    }
    for (const auto& [tensor, file] : json["weight_map"].items()) {
      if (!file.is_string() || fs::path(file.get<std::string>()).filename() != fs::path(file.get<std::string>())) {
        throw FormatError(index.string(), fmt::format("weight_map[\"{}\"]", tensor), "a file name in this folder",
                          file.dump());
      }
      names.insert(file.get<std::string>());
    }
  } else if (fs::exists(folder / "model.safetensors")) {
    names.insert("model.safetensors");
  } else {
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.path().extension() == ".safetensors") names.insert(entry.path().filename().string());
    }
  }
  std::vector<std::string> files;
  for (const std::string& name : names) files.push_back((folder / name).string());
  return files;
}

const Json kNull = nullptr;

}  // namespace

ModelSource::ModelSource(const std::string& path) : path_(path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    OpenFolder();
  } else {
    OpenGguf();
  }
}

void ModelSource::OpenFolder() {
  auto modules = std::make_shared<SentenceModules>(ReadSentenceModules(path_));
  const fs::path folder = fs::path(path_) / modules->transformer;
  modules_ = std::move(modules);
  config_file_ = (folder / "config.json").string();
  if (!fs::exists(config_file_)) {
    throw UsageError(
        fmt::format("{}: expected a model folder with config.json or a .gguf file, found no config.json", path_));
  }
  config_ = ParseConfig(config_file_);
  architecture_ = Text("model_type", "");
  if (architecture_.empty()) Refuse("model_type", "the name of an architecture", "none");
  for (const std::string& file : WeightFiles(folder)) files_.push_back(OpenTensorFile(file));
  if (files_.empty()) throw UsageError(fmt::format("{}: expected weights in .safetensors files, found none", path_));
}

void ModelSource::OpenGguf() {
  modules_ = std::make_shared<SentenceModules>();
  is_gguf_ = true;
  config_file_ = path_;
  files_.push_back(OpenTensorFile(path_));
  if (files_[0].format != "gguf") {
    throw UsageError(fmt::format("{}: expected a model folder or a .gguf file, found {}", path_, files_[0].format));
  }
  config_ = files_[0].metadata;
  architecture_ = Text("general.architecture", "");
  if (architecture_.empty()) Refuse("general.architecture", "the name of an architecture", "none");
}

const TensorView* ModelSource::Find(std::string_view name) const {
  for (const TensorFile& file : files_) {
    if (const TensorView* tensor = file.Find(name)) return tensor;
  }
  return nullptr;
}

const Json& ModelSource::At(std::string_view key) const {
  const auto found = config_.find(key);
  return found == config_.end() ? kNull : *found;
}

void ModelSource::Refuse(std::string_view key, std::string_view expected, std::string_view found) const {
  throw FormatError(config_file_, key, expected, found);
}

std::int64_t ModelSource::Integer(std::string_view key) const {
  const Json& value = At(key);
  if (!value.is_number_integer() || value.get<std::int64_t>() < 0 || value.get<std::int64_t>() > (1LL << 40)) {
    Refuse(key, "a whole number", value.is_null() ? "none" : value.dump());
  }
  return value.get<std::int64_t>();
}

std::int64_t ModelSource::Integer(std::string_view key, std::int64_t fallback) const {
  return At(key).is_null() ? fallback : Integer(key);
}

double ModelSource::Number(std::string_view key) const {
  const Json& value = At(key);
  if (!value.is_number()) Refuse(key, "a number", value.is_null() ? "none" : value.dump());
  return value.get<double>();
}

double ModelSource::Number(std::string_view key, double fallback) const {
  return At(key).is_null() ? fallback : Number(key);
}

bool ModelSource::Flag(std::string_view key, bool fallback) const {
  const Json& value = At(key);
  if (value.is_null()) return fallback;
  if (!value.is_boolean()) Refuse(key, "true or false", value.dump());
  return value.get<bool>();
}

std::string ModelSource::Text(std::string_view key, std::string_view fallback) const {
  const Json& value = At(key);
  if (value.is_null()) return std::string(fallback);
  if (!value.is_string()) Refuse(key, "a string", value.dump());
  return value.get<std::string>();
}

}  // namespace paritrace
