#include "arch/model.h"

#include <array>

#include <fmt/format.h>

#include "arch/architectures.h"
#include "arch/pooling.h"
#include "core/error.h"

namespace paritrace {
namespace {

struct Architecture {
  std::string_view name;  // HF's model_type, GGUF's general.architecture
  Graph (*build)(const ModelSource&);
  bool hf, gguf;
};

constexpr std::array kArchitectures = {
    Architecture{"llama", BuildLlama, true, true},
    Architecture{"mistral", BuildLlama, true, false},  // a GGUF of Mistral says "llama"
    Architecture{"qwen2", BuildQwen2, true, true},
    Architecture{"qwen3", BuildQwen3, true, true},
    Architecture{"gemma2", BuildGemma2, true, true},
    Architecture{"mixtral", BuildMixtral, true, false},  // a GGUF of Mixtral says "llama", with a number of experts
    Architecture{"qwen2_moe", BuildQwen2Moe, true, false},
    Architecture{"qwen2moe", BuildQwen2Moe, false, true},
    Architecture{"bert", BuildBert, true, true},
    Architecture{"nomic_bert", BuildNomicBertMoe, true, false},
    Architecture{"nomic-bert-moe", BuildNomicBertMoe, false, true},
    Architecture{"bitnet", BuildBitNet, true, true},
    Architecture{"bitnet-b1.58", BuildBitNet, false, true},  // bitnet.cpp's names
    Architecture{"bitnet-25", BuildBitNet, false, true},
};

}  // namespace

std::string SupportedArchitectures() {
  std::string names;
  for (const Architecture& known : kArchitectures) names += fmt::format("{}{}", names.empty() ? "" : ", ", known.name);
  return names;
}

Model LoadModel(const std::string& path) {
  Model model;
  model.source = std::make_shared<ModelSource>(path);
  for (const Architecture& known : kArchitectures) {
    if (known.name != model.source->architecture() || !(model.source->is_gguf() ? known.gguf : known.hf)) continue;
    model.graph = known.build(*model.source);
    AddPooling(*model.source, model.graph);
    return model;
  }
  UnknownArchitectureError error(fmt::format("{}: architecture \"{}\" is not supported; supported: {}", path,
                                             model.source->architecture(), SupportedArchitectures()));
  error.architecture = model.source->architecture();
  error.is_folder = !model.source->is_gguf();
  throw error;
}

}  // namespace paritrace
