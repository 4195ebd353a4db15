#include "arch/pooling.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include <fmt/format.h>

#include "arch/binder.h"
#include "core/error.h"

namespace paritrace {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

Json ParseFile(const std::string& file) {
  try {
    return Json::parse(ReadTextFile(file));
  } catch (const nlohmann::json::parse_error& error) {
    throw FormatError(file, error.byte, "valid JSON", error.what());
  }
}

std::string TextAt(const std::string& file, const Json& entry, const char* key) {
  const auto found = entry.is_object() ? entry.find(key) : entry.end();
  if (!entry.is_object() || found == entry.end() || !found->is_string())
    throw FormatError(file, key, "a string", entry.is_object() && found != entry.end() ? found->dump() : "none");
  return found->get<std::string>();
}

std::string LastPart(const std::string& dotted) { return dotted.substr(dotted.rfind('.') + 1); }

// In the order in which sentence-transformers puts several side by side.
constexpr std::array<std::pair<const char*, PoolMode>, 6> kFlags = {
    {{"pooling_mode_cls_token", PoolMode::kFirst},
     {"pooling_mode_max_tokens", PoolMode::kMax},
     {"pooling_mode_mean_tokens", PoolMode::kMean},
     {"pooling_mode_mean_sqrt_len_tokens", PoolMode::kMeanSqrt},
     {"pooling_mode_weightedmean_tokens", PoolMode::kWeightedMean},
     {"pooling_mode_lasttoken", PoolMode::kLast}}};

PoolMode ParseMode(const PoolingModule& module, const Json& name) {
  for (const auto& [flag, mode] : kFlags) {
    if (name.is_string() && name.get<std::string>() == Name(mode)) return mode;
  }
  throw UsageError(fmt::format("{}: pooling_mode {} is not supported", module.file, name.dump()));
}

std::vector<PoolMode> ReadModes(const PoolingModule& module) {
  std::vector<PoolMode> modes;
  const auto named = module.config.find("pooling_mode");
  if (named != module.config.end() && named->is_array()) {
    for (const Json& name : *named) modes.push_back(ParseMode(module, name));
  } else if (named != module.config.end() && !named->is_null()) {
    modes.push_back(ParseMode(module, *named));
  } else {
    for (const auto& [flag, mode] : kFlags) {
      const auto value = module.config.find(flag);
      if (value == module.config.end()) continue;
      if (!value->is_boolean()) throw FormatError(module.file, flag, "true or false", value->dump());
      if (value->get<bool>()) modes.push_back(mode);
    }
  }
  if (modes.empty()) throw FormatError(module.file, "pooling_mode", "at least one way of pooling", "none");
  return modes;
}

std::int64_t WidthAt(const PoolingModule& module, const char* key) {
  const auto found = module.config.find(key);
  if (found == module.config.end() || !found->is_number_integer() || found->get<std::int64_t>() < 1)
    throw FormatError(module.file, key, "a whole number above 0",
                      found == module.config.end() ? "none" : found->dump());
  return found->get<std::int64_t>();
}

Activation ActivationOf(const PoolingModule& module) {
  const auto found = module.config.find("activation_function");
  const std::string name = found == module.config.end() || found->is_null()
                               ? "Tanh"
                               : LastPart(found->is_string() ? found->get<std::string>() : "?");
  for (const auto& [known, activation] :
       {std::pair{"Tanh", Activation::kTanh}, std::pair{"Identity", Activation::kIdentity},
        std::pair{"ReLU", Activation::kRelu}, std::pair{"GELU", Activation::kGeluErf},
        std::pair{"SiLU", Activation::kSilu}, std::pair{"Sigmoid", Activation::kSigmoid}}) {
    if (name == known) return activation;
  }
  throw UsageError(fmt::format("{}: activation_function \"{}\" is not supported", module.file, name));
}

class Tail {
 public:
  explicit Tail(Graph& graph) : graph_(graph) {
    const Node* last = graph.Find("final_norm");
    if (last == nullptr) last = graph.Find(fmt::format("layers.{}.out", graph.layers - 1));
    if (last == nullptr) throw InternalError("a transformer without a last layer");
    stream_ = last->id;
    width_ = graph.hidden;
  }

  void Pool(std::vector<PoolMode> modes) {
    width_ *= static_cast<std::int64_t>(modes.size());
    pooled_ = true;
    Add({.op = PoolOp{std::move(modes)}});
  }

  void Unit() { Add({.op = UnitOp{}}); }

  void Dense(const PoolingModule& module) {
    const std::int64_t in = WidthAt(module, "in_features"), out = WidthAt(module, "out_features");
    if (in != width_)
      throw FormatError(module.file, "in_features", fmt::format("{}, the width before it", width_),
                        fmt::format("{}", in));
    const WeightId weight = Bind(module, "linear.weight", {out, in}, "dense");
    const bool has_bias = module.weights.Find("linear.bias") != nullptr;
    const WeightId bias = has_bias ? Bind(module, "linear.bias", {out}, "dense.bias") : kAbsent;
    Add({.op = LinearOp{}, .weight = weight, .bias = bias});
    width_ = out;
    if (const Activation activation = ActivationOf(module); activation != Activation::kIdentity)
      Add({.op = ActivationOp{activation}});
  }

  // Chains the steps; the last one is the site.
  void Close() {
    for (std::size_t i = 0; i < steps_.size(); ++i) {
      steps_[i].site = i + 1 == steps_.size() ? "pooled" : fmt::format(".pooled.{}", i);
      steps_[i].inputs = {stream_};
      stream_ = graph_.Add(steps_[i]);
    }
  }
  [[nodiscard]] bool pools() const { return pooled_; }

 private:
  void Add(Node node) {
    node.pooled = pooled_;
    steps_.push_back(std::move(node));
  }

  WeightId Bind(const PoolingModule& module, const char* name, const Shape& shape, const char* role) {
    const TensorView* tensor = module.weights.Find(name);
    if (tensor == nullptr)
      throw FormatError(module.file, fmt::format("tensor \"{}\"", name), ToString(shape), "no such tensor");
    if (tensor->shape != shape)
      throw FormatError(module.file, fmt::format("tensor \"{}\"", name),
                        fmt::format("{} as the config says", ToString(shape)), ToString(tensor->shape));
    return graph_.AddWeight(
        {.name = fmt::format("{}/{}", module.folder, name), .tensor = *tensor, .role = fmt::format("pooled.{}", role)});
  }

  Graph& graph_;
  NodeId stream_ = kAbsent;
  std::int64_t width_ = 0;
  bool pooled_ = false;
  std::vector<Node> steps_;
};

void AddGgufPooling(const ModelSource& source, Graph& graph) {
  const std::string key = source.architecture() + ".pooling_type";
  if (source.At(key).is_null()) return;
  // llama.h: none 0, mean 1, first 2, last 3, rank 4.
  constexpr std::array kModes = {PoolMode::kMean, PoolMode::kFirst, PoolMode::kLast};
  const std::int64_t type = source.Integer(key);
  if (type < 1 || type > 3) return;  // 4 scores pairs of texts with a head of its own
  Tail tail(graph);
  tail.Pool({kModes[static_cast<std::size_t>(type - 1)]});
  tail.Close();
}

}  // namespace

SentenceModules ReadSentenceModules(const std::string& folder) {
  SentenceModules modules;
  const std::string file = (fs::path(folder) / "modules.json").string();
  if (!fs::exists(file)) return modules;
  const Json list = ParseFile(file);
  if (!list.is_array() || list.empty()) throw FormatError(file, "top level", "an array of modules", list.type_name());
  for (std::size_t i = 0; i < list.size(); ++i) {
    PoolingModule module{.type = LastPart(TextAt(file, list[i], "type")), .folder = TextAt(file, list[i], "path")};
    if (module.folder.find("..") != std::string::npos || fs::path(module.folder).is_absolute())
      throw FormatError(file, fmt::format("module {}, path", i), "a folder inside this one", module.folder);
    if (module.type == "Transformer" && i == 0) {
      modules.transformer = module.folder;
      continue;
    }
    if (i == 0 || (module.type != "Pooling" && module.type != "Dense" && module.type != "Normalize"))
      throw UsageError(fmt::format("{}: module \"{}\" is not supported there", file, module.type));
    const fs::path own = fs::path(folder) / module.folder;
    module.file = (own / "config.json").string();
    if (module.type != "Normalize") module.config = ParseFile(module.file);
    if (module.type != "Normalize" && !module.config.is_object())
      throw FormatError(module.file, "top level", "a JSON object", module.config.type_name());
    if (module.type == "Dense") {
      const std::string weights = (own / "model.safetensors").string();
      if (!fs::exists(weights))
        throw UsageError(fmt::format("{}: expected model.safetensors, found none", own.string()));
      module.weights = OpenTensorFile(weights);
    }
    modules.rest.push_back(std::move(module));
  }
  return modules;
}

void AddPooling(const ModelSource& source, Graph& graph) {
  if (source.is_gguf()) return AddGgufPooling(source, graph);
  if (source.sentence_modules().rest.empty()) return;
  Tail tail(graph);
  for (const PoolingModule& module : source.sentence_modules().rest) {
    if (module.type == "Pooling") {
      tail.Pool(ReadModes(module));
    } else if (module.type == "Dense") {
      tail.Dense(module);
    } else {
      tail.Unit();
    }
  }
  if (!tail.pools())
    throw UsageError(fmt::format("{}: modules.json: a model without a Pooling module is not supported", source.path()));
  tail.Close();
}

}  // namespace paritrace
