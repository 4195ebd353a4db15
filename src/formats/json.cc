#include "formats/json.h"

#include <unordered_set>
#include <vector>

#include <fmt/format.h>

#include "core/error.h"
#include "core/text.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

// Builds the value from the parser's events. Not nlohmann's own builder: that looks every key of an ordered object up in
// a list (quadratic in a hostile header), silently keeps one of two equal keys, and has no limit of depth.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  Builder(const std::string& file, std::string_view place, int max_depth)
      : file_(file), place_(place), max_depth_(static_cast<std::size_t>(max_depth)) {}

  Json Take() { return std::move(root_); }

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t&) override { return Add(value); }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { throw InternalError("binary value in JSON text"); }
  bool start_object(std::size_t) override { return Open(Json::object()); }
  bool start_array(std::size_t) override { return Open(Json::array()); }
  bool end_object() override { return Leave(); }
  bool end_array() override { return Leave(); }

  bool key(string_t& value) override {
    if (!open_.back().keys.insert(value).second)
      throw FormatError(file_, place_, "each key once", Quoted(value) + " twice");
    open_.back().value->get_ref<Json::object_t&>().emplace_back(std::move(value), nullptr);
    return true;
  }

  bool parse_error(std::size_t position, const std::string& token, const nlohmann::detail::exception&) override {
    throw FormatError(file_, place_, "valid JSON", fmt::format("{} at its byte {}", Quoted(token, 40), position));
  }

 private:
  struct Level {
    Json* value;
    std::unordered_set<std::string> keys;
  };

  template <typename Value>
  Json* Place(Value&& value) {
    if (open_.empty()) return &(root_ = std::forward<Value>(value));
    Json& parent = *open_.back().value;
    if (parent.is_array()) {
      auto& items = parent.get_ref<Json::array_t&>();
      items.emplace_back(std::forward<Value>(value));
      return &items.back();
    }
    return &(parent.get_ref<Json::object_t&>().back().second = std::forward<Value>(value));
  }

  template <typename Value>
  bool Add(Value&& value) {
    Place(std::forward<Value>(value));
    return true;
  }

  bool Open(Json container) {
    if (open_.size() >= max_depth_) {
      throw FormatError(file_, place_, fmt::format("JSON at most {} levels deep", max_depth_), "deeper nesting");
    }
    // A parent is not touched while its child is open, so the pointers on the way down stay valid.
    open_.push_back({Place(std::move(container)), {}});
    return true;
  }

  bool Leave() {
    open_.pop_back();
    return true;
  }

  std::string file_, place_;
  std::size_t max_depth_;
  Json root_;
  std::vector<Level> open_;
};

}  // namespace

Json ParseJson(std::string_view text, const std::string& file, std::string_view place, int max_depth) {
  Builder builder(file, place, max_depth);
  Json::sax_parse(text, &builder);
  return builder.Take();
}

std::string Describe(const Json& value) {
  switch (value.type()) {
    case Json::value_t::object: return "an object";
    case Json::value_t::array: return "an array";
    case Json::value_t::string: return Quoted(value.get_ref<const std::string&>(), 40);
    default: return value.dump();
  }
}

}  // namespace paritrace
