// The tail of an embedding model: what a sentence-transformers folder's modules.json, or a GGUF's pooling type, puts behind
// the transformer. It ends in the site `pooled`.
#pragma once

#include <string>
#include <vector>

#include "arch/model.h"

namespace paritrace {

// One entry of modules.json behind the transformer.
struct PoolingModule {
  std::string type;    // the class's name: "Pooling", "Dense", "Normalize"
  std::string folder;  // as the file says: "1_Pooling"
  std::string file;    // its config.json
  nlohmann::ordered_json config;
  TensorFile weights;  // of a Dense
};

// The folder of the transformer itself inside a sentence-transformers folder, "" where that is the folder; and the modules
// behind it, in order. Both empty without a modules.json.
// Errors: FormatError where the file is broken; UsageError naming a module or a file of weights that is not supported.
struct SentenceModules {
  std::string transformer;
  std::vector<PoolingModule> rest;
};
[[nodiscard]] SentenceModules ReadSentenceModules(const std::string& folder);

// Adds the tail to a graph, where the source has one. Errors: FormatError, UsageError as above.
void AddPooling(const ModelSource& source, Graph& graph);

}  // namespace paritrace
