#include "formats/eval_callback.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "core/error.h"
#include "core/text.h"
#include "formats/printed_values.h"

namespace paritrace {
namespace {

constexpr std::string_view kPrefixes[] = {"common_debug_cb_eval:", "ggml_debug:"};
// No arithmetic of their own, or the whole cache: our adapter leaves them out as well, except where a rule names them.
constexpr std::string_view kMoves[] = {"NONE", "RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE", "SET_ROWS"};

std::string_view Trim(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

// "NAME = (type)  OP(source{16, 32, 1, 1}, source{5, 1, 1, 1}}) = {16, 5, 1, 1}"
struct Node {
  std::string_view name, type, op;
  std::vector<std::string_view> sources;  // names
  std::string_view extents;               // "16, 5, 1, 1", innermost axis first
};

std::optional<Node> ParseNode(std::string_view line) {
  Node node;
  std::size_t start = std::string_view::npos;
  for (const std::string_view prefix : kPrefixes) {
    if (const std::size_t found = line.find(prefix); found != std::string_view::npos) start = found + prefix.size();
  }
  if (start == std::string_view::npos) return std::nullopt;
  line.remove_prefix(start);
  const std::size_t equals = line.find(" = (");
  if (equals == std::string_view::npos) return std::nullopt;
  node.name = Trim(line.substr(0, equals));
  line.remove_prefix(equals + 4);
  const std::size_t close = line.find(')');
  if (close == std::string_view::npos) return std::nullopt;
  node.type = Trim(line.substr(0, close));
  line.remove_prefix(close + 1);
  const std::size_t result = line.rfind("= {");
  if (result == std::string_view::npos) return std::nullopt;
  const std::size_t end = line.find('}', result);
  if (end == std::string_view::npos) return std::nullopt;
  node.extents = line.substr(result + 3, end - result - 3);
  const std::string_view call = line.substr(0, result);
  const std::size_t open = call.find('(');
  if (open == std::string_view::npos) return std::nullopt;
  node.op = Trim(call.substr(0, open));
  // Names may hold parentheses ("cache_k_l0 (view)"), never braces.
  for (std::size_t at = open + 1; at < call.size();) {
    const std::size_t brace = call.find('{', at);
    if (brace == std::string_view::npos) break;
    node.sources.push_back(Trim(call.substr(at, brace - at)));
    at = call.find('}', brace);
    if (at == std::string_view::npos) break;
    at = call.find_first_not_of("}, ", at);
    if (at == std::string_view::npos) break;
  }
  return node;
}

bool IsUnnamed(std::string_view name) {
  const auto is_number = [](std::string_view text) {
    return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  };
  if (name.starts_with("node_") || name.starts_with("leaf_")) return is_number(name.substr(5));
  return name == "norm" || (name.starts_with("norm-") && is_number(name.substr(5)));
}

// As python/paritrace/llamacpp.py names nodes: a sum with a bias takes the bias's name.
std::string NameOf(const Node& node) {
  std::string_view weight;
  for (const std::string_view source : node.sources) {
    if (source.ends_with(".weight") || source.ends_with(".bias")) weight = source;
  }
  const bool by_weight = !weight.empty() && (IsUnnamed(node.name) || (node.op == "ADD" && weight.ends_with(".bias")));
  return fmt::format("{}:{}", by_weight ? weight : node.name, node.op);
}

class Reader {
 public:
  Reader(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  Dump Read() {
    Dump dump;
    dump.format = "eval-callback";
    dump.engine_name = "llamacpp";
    dump.arithmetic = "ggml-cpu";
    std::string_view line = Next();
    while (line_ > 0) {
      const auto node = ParseNode(line);
      if (!node) {
        line = Next();
        continue;
      }
      const std::int64_t at = line_;
      const char* begin = text_.data() + std::min(next_, text_.size());
      const char* end = begin;
      std::vector<std::string_view> sums;
      for (line = Next(); line_ > 0 && !ParseNode(line); line = Next()) {
        const std::string_view content = Trim(line);
        if (content.starts_with("sum = ")) sums.push_back(content.substr(6));
        end = line.data() + line.size();
      }
      Add(*node, {begin, static_cast<std::size_t>(end - begin)}, sums, at, dump);
    }
    return dump;
  }

 private:
  // The next line; line_ is 0 after the last.
  std::string_view Next() {
    if (next_ >= text_.size()) {
      line_ = 0;
      return {};
    }
    const std::size_t end = std::min(text_.find('\n', next_), text_.size());
    const std::string_view line = text_.substr(next_, end - next_);
    next_ = end + 1;
    line_ = ++lines_;
    return line;
  }

  [[nodiscard]] Shape ReadShape(const Node& node, const std::string& place) const {
    Shape shape;
    std::string_view rest = node.extents;
    while (!rest.empty()) {
      const std::size_t comma = std::min(rest.find(','), rest.size());
      const std::string_view number = Trim(rest.substr(0, comma));
      std::int64_t size = 0;
      const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), size);
      if (error != std::errc() || end != number.data() + number.size() || size < 0)
        throw FormatError(file_, place, "sizes in braces", Quoted(node.extents, 60));
      shape.insert(shape.begin(), size);
      rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
    constexpr std::size_t kAxes = 4;
    if (shape.size() != kAxes) throw FormatError(file_, place, "4 sizes in braces", Quoted(node.extents, 60));
    return shape;
  }

  void Add(const Node& node, std::string_view print, const std::vector<std::string_view>& sums, std::int64_t line,
           Dump& dump) {
    const std::string place = fmt::format("line {}", line);
    const auto dtype = ParseAnyDType(node.type);
    if (!dtype) throw FormatError(file_, place, "a ggml type", Quoted(node.type, 40));
    const Shape extents = ReadShape(node, place);
    CheckShape(extents, *dtype, file_, place);
    DumpRecord record;
    record.name = NameOf(node);
    const bool is_copy = record.name.starts_with("kqv_out-");  // the rules know its reshape: attn.ctx
    if (std::find(std::begin(kMoves), std::end(kMoves), node.op) != std::end(kMoves) && !is_copy) return;
    // A graph begins with its embedding.
    if (node.name == "embd" && node.op == "GET_ROWS") {
      ++step_;
      seen_.clear();
    }
    record.step = std::max(step_, 0);
    if (const int occurrence = ++seen_[record.name]; occurrence > 1) record.name += fmt::format("#{}", occurrence);
    record.tensor.name = record.name;
    record.tensor.dtype = *dtype;
    record.tensor.shape = WithoutLeadingOnes(extents);
    record.evidence = ReadPrint(print, sums, extents, !Info(*dtype).is_float, place);
    dump.records.push_back(std::move(record));
  }

  // Each of the outermost slices is printed for itself, and after each the sum of all values so far printed: of the whole.
  std::shared_ptr<const Evidence> ReadPrint(std::string_view print, const std::vector<std::string_view>& sums,
                                            const Shape& extents, bool exact, const std::string& place) const {
    auto evidence = std::make_shared<Evidence>();
    const Shape slice(extents.begin() + 1, extents.end());
    const std::int64_t slice_size = ElementCount(slice).value_or(0);
    std::size_t at = 0;
    // The values may be missing (block types are not printed).
    for (std::int64_t i = 0; i < extents[0] && print.find('[', at) != std::string_view::npos; ++i) {
      const std::size_t sum = std::min(print.find("sum =", at), print.size());
      for (PrintedValue value : ParsePrintedValues(print.substr(at, sum - at), slice, exact, file_, place)) {
        value.index += i * slice_size;
        evidence->values.push_back(value);
      }
      at = std::min(sum + 5, print.size());
    }
    if (!sums.empty()) {
      const auto number = ParsePrintedNumber(Trim(sums.back()));
      if (!number) throw FormatError(file_, place, "a number as the sum", Quoted(sums.back(), 40));
      evidence->statistics.push_back({StatisticKind::kSum, number->value, number->uncertainty, true});
    }
    return evidence;
  }

  std::string_view text_;
  const std::string& file_;
  std::size_t next_ = 0;
  std::int64_t line_ = 0, lines_ = 0;
  int step_ = -1;
  std::map<std::string, int> seen_;
};

}  // namespace

bool IsEvalCallbackLog(std::string_view text) {
  for (const std::string_view prefix : kPrefixes) {
    for (std::size_t at = text.find(prefix); at != std::string_view::npos; at = text.find(prefix, at + 1)) {
      if (ParseNode(text.substr(at, std::min(text.find('\n', at), text.size()) - at))) return true;
    }
  }
  return false;
}

Dump ReadEvalCallbackLog(std::string_view text, const std::string& file) { return Reader(text, file).Read(); }

}  // namespace paritrace
