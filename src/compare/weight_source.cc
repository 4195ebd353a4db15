#include "compare/weight_source.h"

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/decode.h"
#include "core/error.h"
#include "formats/tensor_file.h"
#include "trace/trace.h"

namespace paritrace {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::int64_t Whole(const Json& config, const std::string& key) {
  const auto found = config.find(key);
  if (found == config.end() || !found->is_number_integer()) return 0;
  const auto value = found->get<std::int64_t>();
  return value > 0 && value < (1LL << 32) ? value : 0;
}

std::string Text(const Json& config, const std::string& key) {
  const auto found = config.find(key);
  return found != config.end() && found->is_string() ? found->get<std::string>() : "";
}

// In which order llama.cpp's converter leaves the rows of q and k. It permutes those of Llama's relatives, of which some have
// an architecture of their own: what is not listed may be either.
WeightSource::RowOrder RowOrderOf(std::string_view arch) {
  if (arch == "llama") return WeightSource::RowOrder::kInterleaved;
  constexpr std::string_view kAsInHf[] = {"qwen2",  "qwen2moe", "qwen3", "qwen3moe",   "gemma",
                                          "gemma2", "gemma3",   "bert",  "nomic-bert", "nomic-bert-moe",
                                          "bitnet", "phi2",     "phi3"};
  return std::ranges::find(kAsInHf, arch) == std::end(kAsInHf) ? WeightSource::RowOrder::kUnknown
                                                               : WeightSource::RowOrder::kHalfSplit;
}

void ReadGgufFacts(const Json& metadata, WeightSource& source) {
  const std::string arch = source.architecture = Text(metadata, "general.architecture");
  if (arch.empty()) return;
  source.head_dim = Whole(metadata, arch + ".attention.key_length");
  const std::int64_t heads = Whole(metadata, arch + ".attention.head_count");
  if (source.head_dim == 0 && heads > 0) source.head_dim = Whole(metadata, arch + ".embedding_length") / heads;
  source.row_order = RowOrderOf(arch);
  source.norms_hold_plus_one = arch.starts_with("gemma");
}

void ReadFolderFacts(const Json& config, WeightSource& source) {
  source.architecture = Text(config, "model_type");
  source.head_dim = Whole(config, "head_dim");
  const std::int64_t heads = Whole(config, "num_attention_heads");
  if (source.head_dim == 0 && heads > 0) source.head_dim = Whole(config, "hidden_size") / heads;
  source.row_order = WeightSource::RowOrder::kHalfSplit;
}

// How BitNet's packed codes become values: times the scale beside them, or divided by it.
bool ScaleDivides(const Json& config) {
  const auto found = config.find("quantization_config");
  return found == config.end() || !found->is_object() || Text(*found, "linear_class") != "autobitlinear";
}

class Collector {
 public:
  Collector(WeightSource& source, bool scale_divides) : source_(source), scale_divides_(scale_divides) {}

  // tensors: all of them, with the names that their weights go by
  void Add(const std::vector<TensorView>& tensors) {
    bool norms_after = false;
    std::map<std::string_view, const TensorView*> by_name;
    for (const TensorView& tensor : tensors) {
      norms_after |= tensor.name.find("pre_feedforward_layernorm") != std::string::npos;
      by_name[tensor.name] = &tensor;
    }
    for (const TensorView& tensor : tensors) {
      if (IsDerived(tensor.name)) continue;
      if (AddGateUp(tensor)) continue;
      const auto place = PlaceOfWeight(tensor.name, norms_after);
      if (!place) {
        source_.not_known.push_back(tensor.name);
        Push({.key = tensor.name, .name = tensor.name, .tensor = tensor});
        continue;
      }
      NamedWeight weight{.key = place->Key(),
                         .name = tensor.name,
                         .role = place->role + (place->bias ? ".bias" : ""),
                         .layer = place->layer,
                         .expert = place->expert,
                         .tensor = tensor};
      if (place->stacked && tensor.shape.size() == 3) {
        AddStack(weight, *place, 0, tensor.shape[1]);
        continue;
      }
      const auto scale = by_name.find(tensor.name + "_scale");
      if (tensor.dtype == DType::kU8 && tensor.shape.size() == 2 && scale != by_name.end())
        Unpack(weight, *scale->second);
      Push(std::move(weight));
    }
  }

 private:
  void Push(NamedWeight weight) {
    weight.tensor.shape = WithoutLeadingOnes(weight.tensor.shape, 1);
    source_.weights.push_back(std::move(weight));
  }

  void Unpack(NamedWeight& weight, const TensorView& scale) const {
    weight.tensor.dtype = DType::kTernaryRows;
    weight.tensor.shape[0] *= 4;
    if (scale.size() != 1) return;
    const double value = DecodeAll(scale)[0];
    weight.factor = scale_divides_ ? 1 / value : value;
  }

  // Rows [first, first + rows) of each expert of a stack [experts, …, columns].
  void AddStack(const NamedWeight& all, const WeightPlaceName& place, std::int64_t first, std::int64_t rows) {
    const TensorView& stack = all.tensor;
    const auto row = ByteCount({1, stack.shape[2]}, stack.dtype);
    if (!row) return Push(all);
    for (std::int64_t expert = 0; expert < stack.shape[0]; ++expert) {
      NamedWeight one = all;
      WeightPlaceName its = place;
      its.expert = one.expert = static_cast<int>(expert);
      one.key = its.Key();
      one.name += fmt::format(", expert {}", expert);
      one.tensor.shape = {rows, stack.shape[2]};
      one.tensor.bytes = stack.bytes.subspan(static_cast<std::size_t>((expert * stack.shape[1] + first) * *row),
                                             static_cast<std::size_t>(rows * *row));
      Push(std::move(one));
    }
  }

  // HF keeps gate and up of all experts in one tensor [experts, 2 * width, hidden].
  bool AddGateUp(const TensorView& tensor) {
    constexpr std::string_view kFused = "mlp.experts.gate_up_proj";
    if (!tensor.name.ends_with(kFused) || tensor.shape.size() != 3 || tensor.shape[1] % 2 != 0) return false;
    const std::string base = tensor.name.substr(0, tensor.name.size() - kFused.size());
    for (const bool up : {false, true}) {
      auto place = PlaceOfWeight(base + (up ? "mlp.experts.0.up_proj" : "mlp.experts.0.gate_proj"), false);
      if (!place) return false;
      const std::int64_t width = tensor.shape[1] / 2;
      AddStack({.name = tensor.name, .role = place->role, .layer = place->layer, .tensor = tensor}, *place,
               up ? width : 0, width);
    }
    return true;
  }

  WeightSource& source_;
  bool scale_divides_;
};

std::vector<std::string> WeightFiles(const fs::path& folder) {
  std::set<std::string> all, numbered;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (entry.path().extension() != ".safetensors") continue;
    all.insert(entry.path().string());
    if (name.starts_with("model")) numbered.insert(entry.path().string());
  }
  const auto& chosen = numbered.empty() ? all : numbered;  // Mistral's folders hold the same weights twice
  return {chosen.begin(), chosen.end()};
}

void OpenFolder(const std::string& path, WeightSource& source) {
  source.format = "folder";
  Json config = Json::object();
  const fs::path config_file = fs::path(path) / "config.json";
  if (fs::exists(config_file)) {
    try {
      config = Json::parse(ReadTextFile(config_file.string()));
    } catch (const nlohmann::json::parse_error& error) {
      throw FormatError(config_file.string(), error.byte, "valid JSON", error.what());
    }
    if (!config.is_object()) throw FormatError(config_file.string(), "top level", "an object", config.type_name());
    ReadFolderFacts(config, source);
  }
  std::vector<TensorView> tensors;
  for (const std::string& file : WeightFiles(path)) {
    TensorFile opened = OpenTensorFile(file);
    tensors.insert(tensors.end(), opened.tensors.begin(), opened.tensors.end());
    source.files.insert(source.files.end(), opened.files.begin(), opened.files.end());
  }
  if (tensors.empty()) {
    throw UsageError(fmt::format("{}: expected weights in .safetensors files, a .gguf or a trace, found none", path));
  }
  Collector(source, ScaleDivides(config)).Add(tensors);
}

void OpenTraceWeights(const std::string& path, WeightSource& source) {
  source.format = "trace";
  const Trace trace = OpenTrace(path);
  source.architecture = trace.header.model_architecture;
  source.files = trace.files;
  std::vector<TensorView> tensors;
  for (const TraceEntry& entry : trace.entries) {
    // Activations are named by their module alone; a weight's name says that it is one.
    if (!entry.has_data() || !(entry.name.ends_with(".weight") || entry.name.ends_with(".bias"))) continue;
    TensorView tensor = entry.tensor;
    tensor.name = entry.name;
    tensors.push_back(std::move(tensor));
  }
  if (tensors.empty()) {
    throw UsageError(fmt::format("{}: expected tensors named …weight or …bias, found {} tensors and no such one", path,
                                 trace.entries.size()));
  }
  Collector(source, true).Add(tensors);
}

}  // namespace

WeightSource OpenWeights(const std::string& path) {
  WeightSource source;
  source.path = path;
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    if (fs::exists(fs::path(path) / "trace.json")) {
      OpenTraceWeights(path, source);
    } else {
      OpenFolder(path, source);
    }
    return source;
  }
  TensorFile file = OpenTensorFile(path);
  source.format = file.format;
  source.files = file.files;
  if (file.format == "gguf") ReadGgufFacts(file.metadata, source);
  Collector(source, true).Add(file.tensors);
  return source;
}

}  // namespace paritrace
