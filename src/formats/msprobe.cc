#include "formats/msprobe.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "core/error.h"
#include "core/path_inside.h"
#include "core/text.h"
#include "formats/json.h"
#include "formats/tensor_file.h"

namespace paritrace {
namespace {

constexpr const char* kFolder = "dump_tensor_data";

struct CallName {
  std::string name;
  int step = 0;
};

// "Module.model.layers.0.mlp.LlamaMLP.forward.2" -> {"model.layers.0.mlp", 2}
CallName NameOf(const std::string& key) {
  constexpr std::string_view kModule = "Module.", kForward = ".forward.";
  constexpr std::size_t kMaxDigits = 9;
  const std::size_t forward = key.rfind(kForward);
  if (!key.starts_with(kModule) || forward == std::string::npos) return {key, 0};
  const std::string call = key.substr(forward + kForward.size());
  const std::size_t name_end = forward < kModule.size() ? std::string::npos : key.rfind('.', forward - 1);
  const bool numbered = !call.empty() && call.size() <= kMaxDigits &&
                        std::all_of(call.begin(), call.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!numbered || name_end == std::string::npos || name_end < kModule.size()) return {key, 0};
  return {key.substr(kModule.size(), name_end - kModule.size()), std::stoi(call)};
}

class Reader {
 public:
  Reader(const std::string& file, std::string folder) : file_(file), folder_(std::move(folder)) {}

  Dump Read(const DumpJson& root) {
    for (const auto& [key, call] : FindField(root, "data")->items()) {
      if (key.find(".backward") != std::string::npos) continue;
      const CallName name = NameOf(key);
      for (const char* inputs : {"input_args", "input_kwargs", "input"}) {
        const DumpJson* values = FindField(call, inputs);
        if (values == nullptr) continue;
        if (const DumpJson* first = FirstTensor(*values)) {
          Add(name.name + ":in", name.step, *first, key);
          break;
        }
      }
      if (const DumpJson* outputs = FindField(call, "output")) Outputs(name, *outputs, key);
    }
    if (unread_ > 0) {
      dump_.hint = fmt::format(
          "{}: the values of {} tensors are in .pt files, of which only the statistics are read here; `paritrace "
          "import "
          "msprobe {} -o TRACE` reads them",
          file_, unread_, folder_);
    }
    return std::move(dump_);
  }

 private:
  static bool IsTensor(const DumpJson& value) { return FindField(value, "shape") && FindField(value, "dtype"); }

  static const DumpJson* FirstTensor(const DumpJson& value) {
    if (IsTensor(value)) return &value;
    if (!value.is_structured()) return nullptr;
    for (const DumpJson& part : value) {
      if (const DumpJson* found = FirstTensor(part)) return found;
    }
    return nullptr;
  }

  void Outputs(const CallName& name, const DumpJson& outputs, const std::string& key) {
    int index = 0;
    const auto add = [&](const DumpJson& value, const std::string& suffix) {
      if (IsTensor(value)) Add(suffix.empty() ? name.name : name.name + suffix, name.step, value, key);
    };
    if (outputs.is_object()) return add(outputs, "");
    for (const DumpJson& value : outputs) {
      const std::string suffix = index == 0 ? "" : fmt::format(":{}", index);
      if (IsTensor(value) || !value.is_structured()) {
        add(value, suffix);
      } else {  // a tuple or a ModelOutput in the tuple
        int inner = 0;
        for (const auto& [inner_key, part] : value.items()) {
          add(part, value.is_object()          ? "." + inner_key
                    : inner == 0 && index == 0 ? ""
                                               : fmt::format("{}:{}", suffix, inner));
          ++inner;
        }
      }
      ++index;
    }
  }

  void Add(const std::string& name, int step, const DumpJson& json, const std::string& place) {
    DumpRecord record;
    record.name = record.tensor.name = name;
    record.step = step;
    const std::string dtype = TextField(json, "dtype", file_, place);
    const auto known = ParseAnyDType(dtype);
    if (!known) throw FormatError(file_, place, "a dtype such as \"torch.float32\"", Quoted(dtype));
    record.tensor.dtype = *known;
    record.tensor.shape = ShapeField(json, "shape", file_, place);
    CheckShape(record.tensor.shape, *known, file_, place);
    if (FindField(json, "data_name") != nullptr &&
        ReadValues(TextField(json, "data_name", file_, place), place, record)) {
      dump_.records.push_back(std::move(record));
      return;
    }
    auto evidence = std::make_shared<Evidence>();
    for (const auto& [field, kind] :
         {std::pair("Max", StatisticKind::kMax), std::pair("Min", StatisticKind::kMin),
          std::pair("Mean", StatisticKind::kMean), std::pair("Norm", StatisticKind::kNorm)}) {
      const DumpJson* value = FindField(json, field);
      if (value == nullptr || !value->is_number()) continue;  // "Nan" and "Inf" are written as text
      const auto number = value->get<double>();
      const bool summed = kind == StatisticKind::kMean || kind == StatisticKind::kNorm;
      evidence->statistics.push_back({kind, number, std::fabs(number) * 1e-12, summed});
    }
    record.evidence = std::move(evidence);
    dump_.records.push_back(std::move(record));
  }

  // False where the values are not there or only the Python package can read them.
  bool ReadValues(const std::string& name, const std::string& place, DumpRecord& record) {
    if (folder_.empty()) return false;
    if (name.ends_with(".pt")) {
      ++unread_;
      return false;
    }
    if (!name.ends_with(".npy")) return false;
    const std::string path = PathInside(folder_, (std::filesystem::path(kFolder) / name).string(), file_, place);
    TensorFile tensors = OpenTensorFile(path);
    const TensorView& data = tensors.tensors.front();
    if (data.shape != record.tensor.shape) {
      throw FormatError(file_, place, fmt::format("the shape {} in {}", ToString(record.tensor.shape), Quoted(name)),
                        ToString(data.shape));
    }
    record.tensor.dtype = data.dtype;  // MindSpore's bf16 is saved as f32
    record.tensor.bytes = data.bytes;
    dump_.files.insert(dump_.files.end(), tensors.files.begin(), tensors.files.end());
    return true;
  }

  const std::string& file_;
  std::string folder_;
  Dump dump_{.format = "msprobe", .engine_name = "hf"};
  std::int64_t unread_ = 0;
};

}  // namespace

bool IsMsprobeDump(const DumpJson& json) {
  const DumpJson* data = FindField(json, "data");
  return FindField(json, "task") != nullptr && FindField(json, "level") != nullptr && data != nullptr &&
         data->is_object();
}

Dump ReadMsprobeDump(const DumpJson& json, const std::string& file, const std::string& folder) {
  return Reader(file, folder).Read(json);
}

}  // namespace paritrace
