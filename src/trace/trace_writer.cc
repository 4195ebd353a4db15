#include "trace/trace_writer.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>

#include "core/directory_lock.h"
#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/output_file.h"
#include "core/text.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "formats/safetensors_stream.h"
#include "trace/tensor_summary.h"
#include "trace/trace_header.h"

namespace paritrace {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::string_view kSingleFileEnding = ".safetensors";
constexpr std::uint64_t kShardBytes = 1ull << 30;    // then a new file begins
constexpr std::uint64_t kHeaderBytes = 64ull << 10;  // room for about 500 tensors
// Tensors that are remembered, for the same values to be stored and looked at once: those whose copy would cost more than
// the memory does. A layer or two of them is enough: values that repeat do so from one module to the next.
constexpr std::size_t kMostRecent = 256, kMostSummaries = 32, kWorthSharing = 64 << 10;

std::string Dump(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

// The text as JSON can hold it, so that the same name stands in the index, in the header and in error messages.
std::string ValidUtf8(std::string_view text) { return Json::parse(Dump(std::string(text))).get<std::string>(); }

bool IsOurHeader(const Json& json) { return json.is_object() && json.value("format", Json()) == kTraceFormat; }

// What differs between the two forms of a trace.
class Sink {
 public:
  virtual ~Sink() = default;
  // `index`: the entry's index line without the place of its values.
  virtual void Record(const TensorView& tensor, Json index) = 0;
  virtual void WriteHeader(const Json& header) = 0;
};

class DirectorySink final : public Sink {
 public:
  DirectorySink(const std::string& path, bool overwrite, bool keep_values, const Json& header)
      : path_(path), keep_values_(keep_values) {
    std::error_code error;
    const bool there = fs::exists(fs::symlink_status(path_, error));
    if (there && !fs::is_directory(path_, error))
      throw UsageError(fmt::format("{}: exists and is no directory", path_.string()));
    fs::create_directories(path_, error);
    if (error) throw UsageError(fmt::format("{}: cannot be written: {}", path, error.message()));
    lock_ = DirectoryLock::Try(path);
    if (!lock_) throw TraceTakenError(fmt::format("{}: another process is writing a trace there", path));
    const bool replaced = CheckReplaceable(overwrite);
    // The header first: a directory without one would no longer be known as a trace.
    WriteHeader(header);
    if (replaced) RemoveOldTensors();
    fs::remove(path_ / kIndexFile, error);
    index_.emplace((path_ / kIndexFile).string(), OutputFile::Mode::kInPlace);
  }

  void Record(const TensorView& tensor, Json index) override {
    if (keep_values_) {
      // The same values under another name (what a module hands on, and what the next one is given) are stored once.
      const Place place = PlaceOf(tensor, index["hash"].get_ref<const std::string&>());
      index["file"] = ShardName(place.shard);
      index["key"] = place.key;
    }
    // After the values: the index never names what is not there.
    index_->Append(Dump(index) + "\n");
  }

  void WriteHeader(const Json& header) override {
    WriteFileAtomically((path_ / kHeaderFile).string(), Dump(header, 2) + "\n");
  }

 private:
  // True if a trace is there and may go.
  [[nodiscard]] bool CheckReplaceable(bool overwrite) const {
    std::error_code error;
    const bool empty =
        std::all_of(fs::directory_iterator(path_, error), fs::directory_iterator(),
                    [](const auto& entry) { return entry.path().filename().string().starts_with(kRankFolder); });
    if (empty && !error) return false;
    if (!IsTrace()) throw UsageError(fmt::format("{}: exists and is no trace; choose another name", path_.string()));
    if (!overwrite)
      throw TraceTakenError(
          fmt::format("{}: a trace exists there already; overwriting must be asked for", path_.string()));
    return true;
  }

  [[nodiscard]] bool IsTrace() const {
    std::error_code error;
    const std::string header = (path_ / kHeaderFile).string();
    if (!fs::is_regular_file(header, error)) return false;
    try {
      return IsOurHeader(ParseJson(ReadTextFile(header), header, "header"));
    } catch (const FormatError&) {
      return false;
    }
  }

  static std::string ShardName(int number) { return fmt::format("tensors-{:05}.safetensors", number); }

  void RemoveOldTensors() const {
    std::error_code error;
    for (int number = 0; fs::remove(path_ / ShardName(number), error); ++number) {
    }
  }

  struct Place {
    int shard = 0;
    std::string key;
    DType dtype = DType::kF32;
    Shape shape;
  };

  // Where the values are, which are written if they are not there yet.
  Place PlaceOf(const TensorView& tensor, const std::string& hash) {
    if (tensor.bytes.size() < kWorthSharing) {
      ShardFor(tensor).Append(tensor);
      return {shards_ - 1, tensor.name, tensor.dtype, tensor.shape};
    }
    const auto found = recent_.find(hash);
    if (found != recent_.end() && found->second.dtype == tensor.dtype && found->second.shape == tensor.shape)
      return found->second;
    ShardFor(tensor).Append(tensor);
    Place place{shards_ - 1, tensor.name, tensor.dtype, tensor.shape};
    if (recent_.size() >= kMostRecent) recent_.clear();
    recent_[hash] = place;
    return place;
  }

  SafetensorsStream& ShardFor(const TensorView& tensor) {
    if (!shard_ || shard_->data_size() >= kShardBytes || !shard_->Fits(tensor))
      shard_.emplace((path_ / ShardName(shards_++)).string(), kHeaderBytes);
    return *shard_;
  }

  fs::path path_;
  bool keep_values_;
  std::optional<DirectoryLock> lock_;
  std::optional<OutputFile> index_;
  std::optional<SafetensorsStream> shard_;
  int shards_ = 0;
  std::unordered_map<std::string, Place> recent_;  // by hash
};

// Hash and statistics have no place in this form.
class SingleFileSink final : public Sink {
 public:
  SingleFileSink(const std::string& path, bool overwrite, const Json& header) {
    CheckReplaceable(path, overwrite);
    stream_.emplace(path, kHeaderBytes);
    WriteHeader(header);
  }
  void Record(const TensorView& tensor, Json) override { stream_->Append(tensor); }
  void WriteHeader(const Json& header) override {
    stream_->SetMetadata({{std::string(kHeaderMetadataKey), Dump(header)}});
  }

 private:
  // A model's weights are a .safetensors file, too: only what carries our header may go.
  static void CheckReplaceable(const std::string& path, bool overwrite) {
    std::error_code error;
    if (!fs::exists(fs::symlink_status(path, error))) return;
    if (!IsTrace(path)) throw UsageError(fmt::format("{}: exists and is no trace of ours; choose another name", path));
    if (!overwrite)
      throw TraceTakenError(fmt::format("{}: a trace exists there already; overwriting must be asked for", path));
  }

  static bool IsTrace(const std::string& path) {
    std::error_code error;
    if (!fs::is_regular_file(path, error)) return false;
    try {
      const auto file = TryReadSafetensors(MapFile(path), {.unfinished = true});
      if (!file) return false;
      const auto text = file->metadata.find(kHeaderMetadataKey);
      return text != file->metadata.end() && IsOurHeader(ParseJson(text->get<std::string>(), path, "header"));
    } catch (const FormatError&) {
      return false;
    }
  }

  std::optional<SafetensorsStream> stream_;
};

std::unique_ptr<Sink> MakeSink(const std::string& path, const Json& header, TraceWriter::Mode mode, bool overwrite) {
  if (!path.ends_with(kSingleFileEnding)) {
    return std::make_unique<DirectorySink>(path, overwrite, mode == TraceWriter::Mode::kFull, header);
  }
  if (mode != TraceWriter::Mode::kFull) {
    throw UsageError(
        fmt::format("{}: a trace without values has to be a directory: leave out {}", path, kSingleFileEnding));
  }
  return std::make_unique<SingleFileSink>(path, overwrite, header);
}

}  // namespace

struct TraceWriter::State {
  Json header;
  std::unique_ptr<Sink> sink;
  std::unordered_set<std::string> keys;
  std::int64_t seq = 0;
  Mode mode = Mode::kFull;
  bool closed = false;
  std::mutex summaries_mutex;
  std::unordered_map<std::string, Json> summaries;  // of the last tensors, by hash and all else that they follow from
  std::array<std::pair<const std::byte*, std::size_t>, kMostSummaries> places{};  // where the last ones lay
  std::size_t next_place = 0;

  // Adds hash and summary of the tensor to its line. Any thread.
  void Look(const TensorView& tensor, std::string_view site, Json& index) {
    const bool digest = mode == Mode::kDigest;
    if (tensor.bytes.size() < kWorthSharing || !IsWhereOneWas(tensor)) {
      std::string hash;
      Json summary = SummariseAndHash(tensor, site, digest, hash);
      index["hash"] = hash;
      index.update(summary);
      if (tensor.bytes.size() >= kWorthSharing) Remember(KeyOf(tensor, site, hash), std::move(summary));
      return;
    }
    // Perhaps the same values again: the hash alone may do.
    const std::string hash = HashBytes(tensor.bytes), key = KeyOf(tensor, site, hash);
    index["hash"] = hash;
    {
      const std::scoped_lock lock(summaries_mutex);
      if (const auto found = summaries.find(key); found != summaries.end()) return index.update(found->second);
    }
    Json summary = Summarise(tensor, site, digest);
    index.update(summary);
    Remember(key, std::move(summary));
  }

  // Whether a tensor of that size lay there lately; it does from now on.
  bool IsWhereOneWas(const TensorView& tensor) {
    const std::pair<const std::byte*, std::size_t> place{tensor.bytes.data(), tensor.bytes.size()};
    const std::scoped_lock lock(summaries_mutex);
    if (std::find(places.begin(), places.end(), place) != places.end()) return true;
    places[next_place++ % places.size()] = place;
    return false;
  }

  static std::string KeyOf(const TensorView& tensor, std::string_view site, const std::string& hash) {
    return fmt::format("{} {} {} {}", hash, Name(tensor.dtype), ToString(tensor.shape), site.ends_with(".attn.scores"));
  }

  void Remember(const std::string& key, Json summary) {
    const std::scoped_lock lock(summaries_mutex);
    if (summaries.size() >= kMostSummaries) summaries.clear();
    summaries.emplace(key, std::move(summary));
  }

  void Merge(const Json& changes, std::string_view status) {
    if (!changes.is_object()) throw InternalError("a trace header that is no object");
    header.merge_patch(changes);
    header["format"] = kTraceFormat;
    header["status"] = status;
  }

  std::string UniqueKey(const std::string& wanted) {
    std::string key = wanted;
    for (int occurrence = 2; !keys.insert(key).second; ++occurrence) key = fmt::format("{}#{}", wanted, occurrence);
    return key;
  }
};

TraceWriter::TraceWriter(std::string path, Json header, Mode mode, bool overwrite) : state_(std::make_unique<State>()) {
  state_->header = {{"format", kTraceFormat}};  // first in the file
  state_->Merge(header, "open");
  state_->mode = mode;
  state_->sink = MakeSink(path, state_->header, mode, overwrite);
}

TraceWriter::~TraceWriter() = default;

void TraceWriter::Record(int step, std::string_view name, std::string_view site, const TensorView& tensor) {
  if (state_->closed) throw InternalError("Record on a closed trace");
  Append(Describe(step, name, site, tensor));
}

TraceWriter::Entry TraceWriter::Describe(int step, std::string_view name, std::string_view site,
                                         const TensorView& tensor) const {
  if (ByteCount(tensor.shape, tensor.dtype) != static_cast<std::int64_t>(tensor.bytes.size())) {
    throw InternalError(fmt::format("tensor {}: {} bytes are not {} {}", Quoted(name), tensor.bytes.size(),
                                    Name(tensor.dtype), ToString(tensor.shape)));
  }
  Entry entry{.index = {{"seq", 0}, {"step", step}}, .tensor = tensor};
  const std::string valid_name = ValidUtf8(name);
  entry.tensor.name = fmt::format("{}/{}", step, site.empty() ? std::string_view(valid_name) : site);
  Json& index = entry.index;
  index["name"] = valid_name;
  if (!site.empty()) index["site"] = site;
  index["shape"] = tensor.shape;
  index["dtype"] = Name(tensor.dtype);
  state_->Look(tensor, site, index);
  return entry;
}

void TraceWriter::Append(Entry entry) {
  if (state_->closed) throw InternalError("Record on a closed trace");
  entry.tensor.name = state_->UniqueKey(entry.tensor.name);
  entry.index["seq"] = state_->seq;
  state_->sink->Record(entry.tensor, std::move(entry.index));
  ++state_->seq;
}

TraceWriter::Mode TraceWriter::mode() const { return state_->mode; }

void TraceWriter::UpdateHeader(const Json& header) {
  if (state_->closed) throw InternalError("UpdateHeader on a closed trace");
  state_->Merge(header, "open");
  state_->sink->WriteHeader(state_->header);
}

void TraceWriter::Close() {
  if (state_->closed) throw InternalError("Close on a closed trace");
  state_->Merge(Json::object(), "complete");
  state_->sink->WriteHeader(state_->header);
  state_->closed = true;
}

}  // namespace paritrace
