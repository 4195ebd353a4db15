#include "formats/hf_debug.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <map>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "core/decode.h"
#include "core/error.h"
#include "core/path_inside.h"
#include "core/text.h"
#include "formats/json.h"
#include "formats/printed_values.h"
#include "formats/tensor_file.h"

namespace paritrace {
namespace {

bool IsTensor(const DumpJson& json) {
  return FindField(json, "shape") != nullptr && FindField(json, "dtype") != nullptr;
}

class Reader {
 public:
  Reader(const std::string& file, std::string folder) : file_(file), folder_(std::move(folder)) {}

  Dump Read(const DumpJson& root) {
    root_ = TextField(root, "module_path", file_, "root");
    Node(root);
    return std::move(dump_);
  }

 private:
  // Order: a module's input, what it calls, its output. Depth is bounded by ParseJson.
  void Node(const DumpJson& node) {
    const std::string full = TextField(node, "module_path", file_, "a node");
    std::string path = full.starts_with(root_ + ".") ? full.substr(root_.size() + 1) : full == root_ ? "" : full;
    if (const DumpJson* inputs = FindField(node, "inputs")) {
      if (path.empty()) {
        TakeTokens(*inputs);
      } else if (const DumpJson* first = FirstTensor(*inputs)) {
        Add(path + ":in", *first);
      }
    }
    if (const DumpJson* children = FindField(node, "children")) {
      if (!children->is_array()) throw FormatError(file_, full, "a list as \"children\"", Describe(*children));
      for (const DumpJson& child : *children) Node(child);
    }
    if (const DumpJson* outputs = FindField(node, "outputs")) Outputs(path, *outputs);
  }

  static const DumpJson* FirstTensor(const DumpJson& value) {
    if (IsTensor(value)) return &value;
    if (!value.is_structured()) return nullptr;
    for (const DumpJson& part : value) {
      if (const DumpJson* found = FirstTensor(part)) return found;
    }
    return nullptr;
  }

  void Outputs(const std::string& path, const DumpJson& outputs) {
    if (IsTensor(outputs)) return Add(path.empty() ? "output" : path, outputs);
    if (outputs.is_array()) {
      for (std::size_t i = 0; i < outputs.size(); ++i) {
        if (IsTensor(outputs[i])) Add(i == 0 ? path : fmt::format("{}:{}", path, i), outputs[i]);
      }
    } else if (outputs.is_object()) {
      for (const auto& [key, value] : outputs.items()) {
        if (IsTensor(value)) Add(path.empty() ? key : fmt::format("{}.{}", path, key), value);
      }
    }
  }

  // The ids that the model was given, if there is one sequence and all of it was printed.
  void TakeTokens(const DumpJson& inputs) {
    const DumpJson* kwargs = FindField(inputs, "kwargs");
    const DumpJson* ids = kwargs != nullptr ? FindField(*kwargs, "input_ids") : nullptr;
    if (ids == nullptr) ids = FirstTensor(inputs);
    if (ids == nullptr || !IsTensor(*ids)) return;
    const DumpRecord record = Tensor("input_ids", *ids);
    if (Info(record.tensor.dtype).is_float || WithoutLeadingOnes(record.tensor.shape, 1).size() != 1) return;
    std::vector<std::int64_t> tokens;
    if (!record.evidence) {
      for (const double id : DecodeAll(record.tensor)) tokens.push_back(static_cast<std::int64_t>(id));
    }
    for (const PrintedValue& value : record.evidence ? record.evidence->values : std::vector<PrintedValue>())
      tokens.push_back(static_cast<std::int64_t>(value.value));
    if (!tokens.empty() && static_cast<std::int64_t>(tokens.size()) == record.tensor.size())
      dump_.tokens = {std::move(tokens)};
  }

  void Add(const std::string& name, const DumpJson& json) {
    const int occurrence = ++seen_[name];
    dump_.records.push_back(Tensor(occurrence == 1 ? name : fmt::format("{}#{}", name, occurrence), json));
  }

  DumpRecord Tensor(const std::string& name, const DumpJson& json) {
    DumpRecord record;
    record.name = record.tensor.name = name;
    const std::string place = name;
    const std::string dtype = TextField(json, "dtype", file_, place);
    const auto known = ParseAnyDType(dtype);
    if (!known) throw FormatError(file_, place, "a dtype such as \"torch.float32\"", Quoted(dtype));
    record.tensor.dtype = *known;
    record.tensor.shape = ParseSize(TextField(json, "shape", file_, place), place);
    CheckShape(record.tensor.shape, *known, file_, place);
    auto evidence = std::make_shared<Evidence>();
    const DumpJson* value = FindField(json, "value");
    if (value != nullptr && value->is_string() && !folder_.empty()) {
      if (ReadTensorBeside(value->get<std::string>(), place, record)) return record;
    } else if (value != nullptr && value->is_array()) {
      std::string text;
      for (const DumpJson& line : *value) {
        if (!line.is_string()) throw FormatError(file_, place, "lines of text as \"value\"", Describe(line));
        text += line.get<std::string>() + "\n";
      }
      if (text.starts_with("tensor(")) text.erase(0, 7);
      if (record.tensor.shape.empty()) text = text.substr(0, text.find_first_of(",)"));
      const bool exact = !Info(*known).is_float;
      evidence->values = ParsePrintedValues(text, record.tensor.shape, exact, file_, place);
    }
    for (const auto& [key, kind] : {std::pair("mean", StatisticKind::kMean), std::pair("std", StatisticKind::kStd),
                                    std::pair("min", StatisticKind::kMin), std::pair("max", StatisticKind::kMax)}) {
      AddStatistic(json, key, kind, place, *evidence);
    }
    record.evidence = std::move(evidence);
    return record;
  }

  // "tensor(-9.9188e-03)", with a dtype or a device behind the number at times.
  void AddStatistic(const DumpJson& json, const char* key, StatisticKind kind, const std::string& place,
                    Evidence& evidence) const {
    if (FindField(json, key) == nullptr) return;
    const std::string text = TextField(json, key, file_, place);
    std::string_view number = text;
    if (number.starts_with("tensor(")) number.remove_prefix(7);
    number = number.substr(0, number.find_first_of(",)"));
    const auto parsed = ParsePrintedNumber(number);
    if (!parsed) throw FormatError(file_, place, fmt::format("\"tensor(NUMBER)\" as \"{}\"", key), Quoted(text, 40));
    // Taken in the tensor's own dtype, which rounds it once more: of bf16 at most one part in 256.
    const double rounding = std::fabs(parsed->value) * 0x1p-8;
    const bool coarse = text.find("dtype=") != std::string::npos;
    evidence.statistics.push_back({kind, parsed->value, parsed->uncertainty + (coarse ? rounding : 0),
                                   kind == StatisticKind::kMean || kind == StatisticKind::kStd});
  }

  // "torch.Size([1, 5, 16])"
  [[nodiscard]] Shape ParseSize(const std::string& text, const std::string& place) const {
    const auto fail = [&] {
      throw FormatError(file_, place, "\"torch.Size([1, 5, 16])\" as \"shape\"", Quoted(text, 60));
    };
    const std::size_t open = text.find('['), close = text.find(']');
    if (!text.starts_with("torch.Size(") || open == std::string::npos || close == std::string::npos || close < open)
      fail();
    Shape shape;
    std::string_view rest = std::string_view(text).substr(open + 1, close - open - 1);
    while (!rest.empty()) {
      std::int64_t size = 0;
      const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), size);
      if (error != std::errc() || size < 0) fail();
      shape.push_back(size);
      rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
      if (rest.starts_with(", ")) {
        rest.remove_prefix(2);
      } else if (!rest.empty()) {
        fail();
      }
    }
    return shape;
  }

  // False where the file is not there: people copy the JSON without the rest, and what it says still holds.
  bool ReadTensorBeside(const std::string& name, const std::string& place, DumpRecord& record) {
    const std::string plain = name.starts_with("./") ? name.substr(2) : name;
    std::error_code ignored;
    const bool is_plain = plain.find("..") == std::string::npos && !std::filesystem::path(plain).is_absolute();
    if (is_plain && !std::filesystem::exists(std::filesystem::path(folder_) / plain, ignored)) return false;
    TensorFile tensors = OpenTensorFile(PathInside(folder_, plain, file_, place));
    const TensorView* data = tensors.Find("data");
    if (data == nullptr || data->dtype != record.tensor.dtype || data->shape != record.tensor.shape) {
      throw FormatError(
          file_, place,
          fmt::format("{} {} as \"data\" in {}", Name(record.tensor.dtype), ToString(record.tensor.shape),
                      Quoted(plain)),
          data == nullptr ? "no such tensor" : fmt::format("{} {}", Name(data->dtype), ToString(data->shape)));
    }
    record.tensor.bytes = data->bytes;
    dump_.files.insert(dump_.files.end(), tensors.files.begin(), tensors.files.end());
    return true;
  }

  const std::string& file_;
  std::string folder_, root_;
  Dump dump_{.format = "hf-debug", .engine_name = "hf"};
  std::map<std::string, int> seen_;
};

}  // namespace

bool IsHfDebugTree(const DumpJson& json) {
  return json.is_object() && FindField(json, "module_path") != nullptr && FindField(json, "children") != nullptr;
}

Dump ReadHfDebugTree(const DumpJson& json, const std::string& file, const std::string& folder) {
  return Reader(file, folder).Read(json);
}

}  // namespace paritrace
