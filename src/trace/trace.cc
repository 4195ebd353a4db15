#include "trace/trace.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "core/path_inside.h"
#include "core/text.h"
#include "formats/dump.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "formats/tensor_file.h"
#include "trace/naming.h"
#include "trace/trace_header.h"

namespace paritrace {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// An engine with rules of its own is not guessed at with those of others.
std::string SiteFor(const TraceHeader& header, std::string_view name) {
  const std::string_view engine = HasRules(header.engine_name) ? std::string_view(header.engine_name) : "";
  return SiteOf(engine, name).value_or("");
}

// A tensor file of a trace directory, with its keys looked up in constant time.
struct Shard {
  TensorFile file;
  std::unordered_map<std::string_view, const TensorView*> tensors;
};

class DirectoryReader {
 public:
  explicit DirectoryReader(const std::string& path) : path_(path), index_((fs::path(path) / kIndexFile).string()) {}

  Trace Read() {
    Trace trace;
    trace.path = path_;
    trace.format = "directory";
    trace.metadata = Json::object();
    const std::string header = (fs::path(path_) / kHeaderFile).string();
    std::error_code ignored;
    if (!fs::exists(header, ignored))
      throw UsageError(fmt::format("{}: is no trace: it has no {}", path_, kHeaderFile));
    (void)PathInside(path_, std::string(kHeaderFile), path_, "folder");
    trace.header = ParseTraceHeader(ParseJson(ReadTextFile(header), header, "header"), header);
    // An open trace may not have come to its first tensor.
    if (!trace.header.complete && !fs::exists(index_, ignored)) return trace;
    ReadIndex(trace);
    for (auto& [name, shard] : shards_) {
      trace.files.insert(trace.files.end(), shard->file.files.begin(), shard->file.files.end());
    }
    return trace;
  }

 private:
  void ReadIndex(Trace& trace) {
    (void)PathInside(path_, std::string(kIndexFile), path_, "folder");
    const auto file = MapFile(index_);
    trace.files.push_back(file);
    std::string_view text(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
    for (int line = 1; !text.empty(); ++line) {
      const std::size_t end = text.find('\n');
      const std::string place = fmt::format("line {}", line);
      const std::string_view content = text.substr(0, end);
      text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
      if (content.empty()) continue;
      const bool torn = end == std::string_view::npos && !trace.header.complete;
      Json entry;
      try {
        entry = ParseJson(content, index_, place);
      } catch (const FormatError&) {
        if (torn) return;  // the engine died while it wrote this line
        throw;
      }
      trace.entries.push_back(ReadEntry(entry, place, trace.header));
    }
  }

  TraceEntry ReadEntry(const Json& json, const std::string& place, const TraceHeader& header) {
    if (!json.is_object()) throw FormatError(index_, place, "an object", Describe(json));
    TraceEntry entry;
    entry.seq = Integer(json, "seq", place, std::numeric_limits<std::int64_t>::max());
    entry.step = static_cast<int>(Integer(json, "step", place, std::numeric_limits<int>::max()));
    entry.name = Text(json, "name", place, true);
    entry.site = Text(json, "site", place, false);
    if (entry.site.empty()) entry.site = SiteFor(header, entry.name);
    entry.hash = Text(json, "hash", place, false);
    entry.sketch = Text(json, "sketch", place, false);
    if (const Json* stats = Find(json, "stats")) {
      if (!stats->is_object()) throw FormatError(index_, place, "an object as \"stats\"", Describe(*stats));
      entry.stats = *stats;
    }
    entry.tensor.name = entry.name;
    entry.tensor.dtype = ReadDType(json, place);
    entry.tensor.shape = ReadShape(json, place);
    if (!ByteCount(entry.tensor.shape, entry.tensor.dtype)) {
      throw FormatError(index_, place, "a shape that fits in memory", ToString(entry.tensor.shape));
    }
    if (Find(json, "file") != nullptr) {
      entry.tensor.bytes =
          FindData(entry.tensor, Text(json, "file", place, true), Text(json, "key", place, true), place, header);
    }
    return entry;
  }

  static const Json* Find(const Json& object, const char* key) {
    const auto found = object.find(key);
    return found == object.end() || found->is_null() ? nullptr : &*found;
  }

  std::string Text(const Json& json, const char* key, const std::string& place, bool required) const {
    const Json* value = Find(json, key);
    if (value == nullptr && !required) return "";
    if (value == nullptr || !value->is_string()) {
      throw FormatError(index_, place, fmt::format("a string as \"{}\"", key),
                        value == nullptr ? "no such key" : Describe(*value));
    }
    return value->get<std::string>();
  }

  std::int64_t Integer(const Json& json, const char* key, const std::string& place, std::int64_t most) const {
    const Json* value = Find(json, key);
    if (value == nullptr || !value->is_number_unsigned() ||
        value->get<std::uint64_t>() > static_cast<std::uint64_t>(most)) {
      throw FormatError(index_, place, fmt::format("a count as \"{}\"", key),
                        value == nullptr ? "no such key" : Describe(*value));
    }
    return value->get<std::int64_t>();
  }

  DType ReadDType(const Json& json, const std::string& place) const {
    const std::string name = Text(json, "dtype", place, true);
    const auto dtype = ParseAnyDType(name);
    if (!dtype) throw FormatError(index_, place, "a dtype such as \"f32\"", Quoted(name));
    return *dtype;
  }

  Shape ReadShape(const Json& json, const std::string& place) const {
    const Json* value = Find(json, "shape");
    if (value == nullptr || !value->is_array()) {
      throw FormatError(index_, place, "a list as \"shape\"", value == nullptr ? "no such key" : Describe(*value));
    }
    Shape shape;
    for (const Json& axis : *value) {
      if (!axis.is_number_unsigned() ||
          axis.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        throw FormatError(index_, place, "sizes in \"shape\"", Describe(axis));
      }
      shape.push_back(axis.get<std::int64_t>());
    }
    return shape;
  }

  std::span<const std::byte> FindData(const TensorView& tensor, const std::string& file, const std::string& key,
                                      const std::string& place, const TraceHeader& header) {
    const Shard& shard = OpenShard(file, place, header);
    const auto found = shard.tensors.find(key);
    if (found == shard.tensors.end()) {
      throw FormatError(index_, place, fmt::format("key {} in {}", Quoted(key), Quoted(file)), "no such tensor");
    }
    const TensorView& stored = *found->second;
    if (stored.dtype != tensor.dtype || stored.shape != tensor.shape) {
      throw FormatError(index_, place,
                        fmt::format("{} {} as in {}", Name(stored.dtype), ToString(stored.shape), Quoted(file)),
                        fmt::format("{} {}", Name(tensor.dtype), ToString(tensor.shape)));
    }
    return stored.bytes;
  }

  const Shard& OpenShard(const std::string& name, const std::string& place, const TraceHeader& header) {
    auto& shard = shards_[name];
    if (shard) return *shard;
    const std::string path = PathInside(path_, name, index_, place);
    auto file = MapFile(path);
    // The last tensor of an engine that died may lie behind the header's last entry.
    auto tensors = TryReadSafetensors(file, {.unfinished = !header.complete});
    if (!tensors) throw FormatError(path, 0, "a safetensors file", "another format");
    shard = std::make_unique<Shard>(Shard{*std::move(tensors), {}});
    for (const TensorView& tensor : shard->file.tensors) shard->tensors.emplace(tensor.name, &tensor);
    return *shard;
  }

  std::string path_, index_;
  std::unordered_map<std::string, std::unique_ptr<Shard>> shards_;
};

// "12/name" is step 12; a key without such a beginning is step 0.
std::pair<int, std::string> SplitKey(const std::string& key) {
  constexpr std::size_t kMaxDigits = 9;
  const std::size_t slash = key.find('/');
  const bool numbered = slash != std::string::npos && slash > 0 && slash <= kMaxDigits && slash + 1 < key.size() &&
                        std::all_of(key.begin(), key.begin() + static_cast<std::ptrdiff_t>(slash),
                                    [](char c) { return c >= '0' && c <= '9'; });
  if (!numbered) return {0, key};
  return {std::stoi(key.substr(0, slash)), key.substr(slash + 1)};
}

TraceHeader HeaderOf(const TensorFile& file, const std::string& path) {
  const auto text = file.metadata.find(kHeaderMetadataKey);
  if (text == file.metadata.end() || !text->is_string()) return {};
  const std::string where = fmt::format("{}: {}", path, kHeaderMetadataKey);
  return ParseTraceHeader(ParseJson(text->get_ref<const std::string&>(), where, "header"), where);
}

TensorFile ReadSingleFile(const std::string& path) {
  const auto file = MapFile(path);
  // Only the header inside tells whether the file is still being written.
  if (auto open = TryReadSafetensors(file, {.unfinished = true}); open && !HeaderOf(*open, path).complete)
    return *std::move(open);
  return ReadTensorFile(file);
}

void SortByRank(std::vector<TraceEntry>& entries) {
  std::stable_sort(entries.begin(), entries.end(), [](const TraceEntry& a, const TraceEntry& b) {
    return std::pair(a.step, ExecutionRank(a.site)) < std::pair(b.step, ExecutionRank(b.site));
  });
}

Trace OpenSingleFile(const std::string& path) {
  TensorFile file = ReadSingleFile(path);
  Trace trace;
  trace.path = path;
  trace.has_order = false;
  trace.format = file.format;
  trace.header = HeaderOf(file, path);
  trace.metadata = std::move(file.metadata);
  trace.files = std::move(file.files);
  for (TensorView& tensor : file.tensors) {
    TraceEntry entry;
    std::tie(entry.step, entry.name) = SplitKey(tensor.name);
    entry.site = SiteFor(trace.header, entry.name);
    entry.tensor = std::move(tensor);
    trace.entries.push_back(std::move(entry));
  }
  SortByRank(trace.entries);
  for (std::size_t i = 0; i < trace.entries.size(); ++i) trace.entries[i].seq = static_cast<std::int64_t>(i);
  return trace;
}

// llama.cpp gives several nodes of a layer the names of one site (a product, then its sum with a bias): the last is the site.
void KeepLastOfSite(std::vector<TraceEntry>& entries) {
  std::map<std::pair<int, std::string>, TraceEntry*> last;
  for (TraceEntry& entry : entries) {
    if (entry.site.empty()) continue;
    TraceEntry*& before = last[{entry.step, entry.site}];
    if (before != nullptr) before->site.clear();
    before = &entry;
  }
}

// Heads side by side, as in a trace: llama.cpp shows q and k as [tokens, heads, head_dim].
void JoinHeads(TraceEntry& entry) {
  constexpr std::string_view kByToken[] = {"attn.q",      "attn.k",      "attn.v",      "attn.q_norm",
                                           "attn.k_norm", "attn.q_rope", "attn.k_rope", "attn.ctx"};
  const bool by_token = std::any_of(std::begin(kByToken), std::end(kByToken),
                                    [&](std::string_view site) { return entry.site.ends_with(site); });
  Shape& shape = entry.tensor.shape;
  if (by_token && shape.size() == 3) shape = {shape[0], shape[1] * shape[2]};
}

// Another program's dump as a trace. Statistics stand where ours would.
Trace TraceOfDump(Dump dump, const std::string& path) {
  Trace trace;
  trace.path = path;
  trace.format = std::move(dump.format);
  trace.metadata = Json::object();
  trace.hint = std::move(dump.hint);
  trace.has_order = dump.has_order;
  trace.header.engine_name = std::move(dump.engine_name);
  trace.header.arithmetic = std::move(dump.arithmetic);
  trace.header.tokens = std::move(dump.tokens);
  trace.files = std::move(dump.files);
  for (DumpRecord& record : dump.records) {
    TraceEntry entry;
    entry.step = record.step;
    entry.name = std::move(record.name);
    entry.site = SiteFor(trace.header, entry.name);
    entry.hash = std::move(record.hash);
    entry.tensor = std::move(record.tensor);
    entry.evidence = std::move(record.evidence);
    if (trace.header.engine_name == "llamacpp") JoinHeads(entry);
    if (entry.evidence) {
      for (const Statistic& statistic : entry.evidence->statistics)
        entry.stats[std::string(Name(statistic.kind))] =
            std::isfinite(statistic.value) ? Json(statistic.value) : Json(nullptr);
    }
    trace.entries.push_back(std::move(entry));
  }
  if (trace.header.engine_name == "llamacpp") KeepLastOfSite(trace.entries);
  if (!trace.has_order) SortByRank(trace.entries);
  for (std::size_t i = 0; i < trace.entries.size(); ++i) trace.entries[i].seq = static_cast<std::int64_t>(i);
  return trace;
}

}  // namespace

const TraceEntry* Trace::Find(int step, std::string_view site) const {
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [&](const TraceEntry& entry) { return entry.step == step && entry.site == site; });
  return found == entries.end() ? nullptr : &*found;
}

std::vector<int> Trace::Steps() const {
  std::set<int> steps;
  for (const TraceEntry& entry : entries) steps.insert(entry.step);
  return {steps.begin(), steps.end()};
}

Trace OpenTrace(const std::string& path) {
  std::error_code ignored;
  const bool is_folder = fs::is_directory(path, ignored);
  if (!is_folder || !fs::exists(fs::path(path) / kHeaderFile, ignored)) {
    if (auto dump = OpenDump(path)) return TraceOfDump(*std::move(dump), path);
  }
  return is_folder ? DirectoryReader(path).Read() : OpenSingleFile(path);
}

}  // namespace paritrace
