// compare/tokens.h and the metadata of model files for Python: what `paritrace tokens` needs of the library.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <string>
#include <vector>

#include "bind_core.h"
#include "compare/tokens.h"
#include "formats/tensor_file.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace paritrace {
namespace {

using Sequences = std::vector<std::vector<std::int64_t>>;

nb::object Compare(const Sequences& reference, const Sequences& subject) {
  const auto mismatch = CompareTokens(reference, subject);
  if (!mismatch) return nb::none();
  nb::dict found;
  found["sequence"] = mismatch->sequence;
  found["position"] = mismatch->position;
  found["cause"] = mismatch->cause;
  found["statement"] = mismatch->statement;
  return found;
}

std::string Metadata(const std::string& path) {
  // A vocabulary may hold bytes that are no UTF-8.
  return OpenTensorFile(path).metadata.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace

void BindTokens(nb::module_& module) {
  module.def("compare_tokens", &Compare, "reference"_a, "subject"_a,
             "None where two lists of sequences are the same as far as both go; else a dict with sequence, position, "
             "cause, statement.");
  module.def("metadata_json", &Metadata, "path"_a,
             "The key-value data of a tensor file (.gguf, .safetensors) as JSON. Errors: ValueError.");
}

}  // namespace paritrace
