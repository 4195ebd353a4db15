#include "trace/trace_header.h"

#include <limits>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "formats/json.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

class Reader {
 public:
  Reader(const std::string& file, const Json& json) : file_(file), root_(json) {}

  void Read(TraceHeader& header) const {
    if (!root_.is_object()) Fail("header", "an object", root_);
    const Json* format = Find(root_, "format");
    if (format == nullptr) throw FormatError(file_, "format", fmt::format("\"{}\"", kTraceFormat), "no such key");
    if (*format != kTraceFormat) Fail("format", fmt::format("\"{}\"", kTraceFormat), *format);
    header.engine_name = Text("engine", "name");
    header.engine_version = Text("engine", "version");
    header.model_name = Text("model", "name");
    header.model_architecture = Text("model", "architecture");
    header.model_file = Text("model", "file");
    header.arithmetic = Text("run", "arithmetic");
    header.tokens = Tokens();
    header.steps = Steps();
    if (const Json* status = Find(root_, "status")) {
      if (*status != "open" && *status != "complete") Fail("status", "\"open\" or \"complete\"", *status);
      header.complete = *status == "complete";
    }
  }

 private:
  [[noreturn]] void Fail(std::string_view place, std::string_view expected, const Json& found) const {
    throw FormatError(file_, place, expected, Describe(found));
  }

  // nullptr where the key is absent or null.
  static const Json* Find(const Json& object, const char* key) {
    const auto found = object.find(key);
    return found == object.end() || found->is_null() ? nullptr : &*found;
  }

  [[nodiscard]] const Json* FindIn(const char* group, const char* key) const {
    const Json* object = Find(root_, group);
    if (object == nullptr) return nullptr;
    if (!object->is_object()) Fail(group, "an object", *object);
    return Find(*object, key);
  }

  [[nodiscard]] std::string Text(const char* group, const char* key) const {
    const Json* value = FindIn(group, key);
    if (value == nullptr) return "";
    if (!value->is_string()) Fail(fmt::format("{}.{}", group, key), "a string", *value);
    return value->get<std::string>();
  }

  [[nodiscard]] std::int64_t Integer(const Json& value, std::string_view place, std::int64_t least,
                                     std::int64_t most) const {
    const bool fits = value.is_number_unsigned() ? value.get<std::uint64_t>() <= static_cast<std::uint64_t>(most)
                                                 : value.is_number_integer() && value.get<std::int64_t>() <= most;
    if (!fits || value.get<std::int64_t>() < least) Fail(place, fmt::format("an integer from {}", least), value);
    return value.get<std::int64_t>();
  }

  [[nodiscard]] std::vector<std::vector<std::int64_t>> Tokens() const {
    constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
    std::vector<std::vector<std::int64_t>> tokens;
    const Json* list = FindIn("run", "tokens");
    if (list == nullptr) return tokens;
    if (!list->is_array()) Fail("run.tokens", "one list of ids a sequence", *list);
    for (const Json& sequence : *list) {
      if (!sequence.is_array()) Fail("run.tokens", "one list of ids a sequence", sequence);
      auto& ids = tokens.emplace_back();
      for (const Json& id : sequence) ids.push_back(Integer(id, "run.tokens", -kMost, kMost));
    }
    return tokens;
  }

  [[nodiscard]] std::vector<TraceStep> Steps() const {
    std::vector<TraceStep> steps;
    const Json* list = FindIn("run", "steps");
    if (list == nullptr) return steps;
    if (!list->is_array()) Fail("run.steps", "a list", *list);
    for (const Json& entry : *list) {
      if (!entry.is_object()) Fail("run.steps", "objects", entry);
      TraceStep step;
      step.step = static_cast<int>(StepValue(entry, "step", std::numeric_limits<int>::max()));
      step.start = StepValue(entry, "start", std::numeric_limits<std::int64_t>::max());
      step.count = StepValue(entry, "count", std::numeric_limits<std::int64_t>::max());
      steps.push_back(step);
    }
    return steps;
  }

  [[nodiscard]] std::int64_t StepValue(const Json& entry, const char* key, std::int64_t most) const {
    const std::string place = fmt::format("run.steps.{}", key);
    const Json* value = Find(entry, key);
    if (value == nullptr) throw FormatError(file_, place, "an integer", "no such key");
    return Integer(*value, place, 0, most);
  }

  const std::string& file_;
  const Json& root_;
};

}  // namespace

TraceHeader ParseTraceHeader(Json json, const std::string& file) {
  TraceHeader header;
  Reader(file, json).Read(header);
  header.raw = std::move(json);
  return header;
}

}  // namespace paritrace
