#include "formats/gguf.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <unordered_set>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "core/error.h"
#include "core/text.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kMagic = "GGUF";
constexpr std::uint32_t kMaxAxes = 4;  // GGML_MAX_DIMS
constexpr std::uint64_t kDefaultAlignment = 32;
constexpr std::string_view kAlignmentKey = "general.alignment";
// A value in memory takes 16 times the one byte it may take in the file; the largest vocabularies are below a million.
constexpr std::uint64_t kMaxMetadataValues = 1u << 24;

enum class ValueType : std::uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
};

class Reader {
 public:
  explicit Reader(std::shared_ptr<const InputFile> file)
      : file_(std::move(file)), bytes_(file_->name(), file_->bytes()) {}

  TensorFile Read() {
    bytes_.Take(kMagic.size(), "magic");
    ReadVersion();
    const auto tensors = bytes_.Read<std::uint64_t>("tensor count");
    const auto keys = bytes_.Read<std::uint64_t>("metadata count");
    TensorFile result{.format = "gguf", .tensors = {}, .metadata = ReadMetadata(keys), .files = {file_}};
    const std::uint64_t alignment = ReadAlignment(result.metadata);
    const std::vector<std::uint64_t> offsets = ReadInfos(tensors, result.tensors);
    PlaceData(alignment, offsets, result.tensors);
    return result;
  }

 private:
  [[noreturn]] void Fail(std::uint64_t at, std::string_view expected, std::string_view found) const {
    throw FormatError(file_->name(), at, expected, found);
  }

  void ReadVersion() {
    const std::uint64_t at = bytes_.offset();
    const auto version = bytes_.Read<std::uint32_t>("version");
    if (version == 2 || version == 3) return;
    const bool swapped = (version & 0xffff) == 0 && version != 0;
    Fail(at, "version 2 or 3", swapped ? "a big-endian file" : fmt::format("{}", version));
  }

  // A count is believed only as far as the rest of the file can bear it out: nothing is reserved for a mere claim.
  void CheckCount(std::uint64_t at, std::uint64_t count, std::uint64_t min_bytes, std::string_view what) const {
    if (count > bytes_.left() / min_bytes) {
      Fail(at, fmt::format("no more {} than {} bytes can hold", what, bytes_.left()), fmt::format("{}", count));
    }
  }

  std::string ReadString(std::string_view what) {
    const auto size = bytes_.Read<std::uint64_t>(what);
    const auto text = bytes_.Take(size, what);
    return {reinterpret_cast<const char*>(text.data()), text.size()};
  }

  Json ReadScalar(ValueType type, std::uint64_t at) {
    switch (type) {
      case ValueType::kU8: return bytes_.Read<std::uint8_t>("metadata value");
      case ValueType::kI8: return bytes_.Read<std::int8_t>("metadata value");
      case ValueType::kU16: return bytes_.Read<std::uint16_t>("metadata value");
      case ValueType::kI16: return bytes_.Read<std::int16_t>("metadata value");
      case ValueType::kU32: return bytes_.Read<std::uint32_t>("metadata value");
      case ValueType::kI32: return bytes_.Read<std::int32_t>("metadata value");
      case ValueType::kU64: return bytes_.Read<std::uint64_t>("metadata value");
      case ValueType::kI64: return bytes_.Read<std::int64_t>("metadata value");
      case ValueType::kF32: return static_cast<double>(bytes_.Read<float>("metadata value"));
      case ValueType::kF64: return bytes_.Read<double>("metadata value");
      case ValueType::kBool: return bytes_.Read<std::uint8_t>("metadata value") != 0;
      case ValueType::kString: return ReadString("metadata string");
      case ValueType::kArray: break;
    }
    Fail(at, "a metadata type from 0 to 12, no array in an array", fmt::format("{}", static_cast<std::uint32_t>(type)));
  }

  static std::uint64_t MinBytes(ValueType type) {
    switch (type) {
      case ValueType::kU16:
      case ValueType::kI16: return 2;
      case ValueType::kU32:
      case ValueType::kI32:
      case ValueType::kF32: return 4;
      case ValueType::kU64:
      case ValueType::kI64:
      case ValueType::kF64:
      case ValueType::kString: return 8;
      default: return 1;
    }
  }

  Json ReadValue() {
    const std::uint64_t at = bytes_.offset();
    const auto type = static_cast<ValueType>(bytes_.Read<std::uint32_t>("metadata type"));
    if (type != ValueType::kArray) return ReadScalar(type, at);
    const std::uint64_t element_at = bytes_.offset();
    const auto element = static_cast<ValueType>(bytes_.Read<std::uint32_t>("array type"));
    const std::uint64_t count_at = bytes_.offset();
    const auto count = bytes_.Read<std::uint64_t>("array size");
    CheckCount(count_at, count, MinBytes(element), "array values");
    if (count > kMaxMetadataValues - values_) {
      Fail(count_at, fmt::format("at most {} metadata values", kMaxMetadataValues), fmt::format("{} more", count));
    }
    values_ += count;
    Json::array_t items;
    items.reserve(count);
    for (std::uint64_t i = 0; i < count; ++i) items.push_back(ReadScalar(element, element_at));
    return items;
  }

  Json ReadMetadata(std::uint64_t keys) {
    constexpr std::uint64_t kMinEntry = 8 + 4 + 1;  // empty key, type, one byte
    CheckCount(bytes_.offset() - 8, keys, kMinEntry, "metadata keys");
    Json::object_t metadata;
    std::unordered_set<std::string> seen;
    for (std::uint64_t i = 0; i < keys; ++i) {
      const std::uint64_t at = bytes_.offset();
      std::string key = ReadString("metadata key");
      if (!seen.insert(key).second) Fail(at, "each metadata key once", Quoted(key) + " twice");
      // Appended past the object's own insert, which searches all keys each time.
      metadata.emplace_back(std::move(key), ReadValue());
    }
    return metadata;
  }

  [[nodiscard]] std::uint64_t ReadAlignment(const Json& metadata) const {
    const auto found = metadata.find(kAlignmentKey);
    if (found == metadata.end()) return kDefaultAlignment;
    const std::uint64_t alignment = found->is_number_unsigned() ? found->get<std::uint64_t>() : 0;
    if (!std::has_single_bit(alignment) || alignment > std::numeric_limits<std::uint32_t>::max()) {
      throw FormatError(file_->name(), kAlignmentKey, "a power of two",
                        found->dump(-1, ' ', false, Json::error_handler_t::replace));
    }
    return alignment;
  }

  // Fills names, dtypes and shapes; returns each tensor's offset in the data.
  std::vector<std::uint64_t> ReadInfos(std::uint64_t count, std::vector<TensorView>& tensors) {
    constexpr std::uint64_t kMinInfo = 8 + 4 + 4 + 8;  // empty name, no axes, type, offset
    CheckCount(bytes_.offset(), count, kMinInfo, "tensors");
    std::vector<std::uint64_t> offsets;
    offsets.reserve(count);
    tensors.reserve(count);
    std::unordered_set<std::string> seen;
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::uint64_t at = bytes_.offset();
      TensorView tensor;
      tensor.name = ReadString("tensor name");
      if (!seen.insert(tensor.name).second) Fail(at, "each tensor once", Quoted(tensor.name) + " twice");
      const std::string place = "tensor " + Quoted(tensor.name);
      const auto axes = bytes_.Read<std::uint32_t>("axes of " + place);
      if (axes > kMaxAxes)
        throw FormatError(file_->name(), place, fmt::format("at most {} axes", kMaxAxes), fmt::format("{}", axes));
      for (std::uint32_t axis = 0; axis < axes; ++axis) {
        tensor.shape.push_back(static_cast<std::int64_t>(bytes_.Read<std::uint64_t>("shape of " + place)));
      }
      std::reverse(tensor.shape.begin(), tensor.shape.end());
      const auto type = bytes_.Read<std::uint32_t>("type of " + place);
      const auto dtype = DTypeOfGgmlType(type);
      if (!dtype) throw FormatError(file_->name(), place, "a ggml type that still exists", fmt::format("{}", type));
      tensor.dtype = *dtype;
      offsets.push_back(bytes_.Read<std::uint64_t>("offset of " + place));
      tensors.push_back(std::move(tensor));
    }
    return offsets;
  }

  void PlaceData(std::uint64_t alignment, const std::vector<std::uint64_t>& offsets, std::vector<TensorView>& tensors) {
    const std::uint64_t padding = (alignment - bytes_.offset() % alignment) % alignment;
    // A file without tensors may end before the padding.
    bytes_.Take(tensors.empty() ? std::min(padding, bytes_.left()) : padding, "padding before the data");
    const auto data = bytes_.Take(bytes_.left(), "data");
    std::vector<std::pair<std::uint64_t, std::size_t>> order;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      TensorView& tensor = tensors[i];
      const std::string place = "tensor " + Quoted(tensor.name);
      const auto size = ByteCount(tensor.shape, tensor.dtype);
      if (!size) {
        throw FormatError(file_->name(), place,
                          fmt::format("a shape of whole {} blocks that fits in memory", Name(tensor.dtype)),
                          ToString(tensor.shape));
      }
      const auto wanted = static_cast<std::uint64_t>(*size);
      if (offsets[i] % alignment != 0) {
        throw FormatError(file_->name(), place, fmt::format("an offset that is a multiple of {}", alignment),
                          fmt::format("{}", offsets[i]));
      }
      if (offsets[i] > data.size() || wanted > data.size() - offsets[i]) {
        throw FormatError(file_->name(), place,
                          fmt::format("{} bytes ({} {}) at offset {} of the data", wanted, Name(tensor.dtype),
                                      ToString(tensor.shape), offsets[i]),
                          fmt::format("{} bytes of data", data.size()));
      }
      tensor.bytes = data.subspan(offsets[i], wanted);
      if (wanted > 0) order.emplace_back(offsets[i], i);
    }
    std::sort(order.begin(), order.end());
    for (std::size_t i = 1; i < order.size(); ++i) {
      const TensorView& before = tensors[order[i - 1].second];
      if (order[i].first < order[i - 1].first + before.bytes.size()) {
        throw FormatError(file_->name(), "tensor " + Quoted(tensors[order[i].second].name), "data of its own",
                          "bytes of " + Quoted(before.name));
      }
    }
  }

  std::shared_ptr<const InputFile> file_;
  ByteReader bytes_;
  std::uint64_t values_ = 0;
};

}  // namespace

std::optional<DType> DTypeOfGgmlType(std::uint32_t type) {
  switch (type) {
    case 0: return DType::kF32;
    case 1: return DType::kF16;
    case 2: return DType::kQ4_0;
    case 3: return DType::kQ4_1;
    case 6: return DType::kQ5_0;
    case 7: return DType::kQ5_1;
    case 8: return DType::kQ8_0;
    case 9: return DType::kQ8_1;
    case 10: return DType::kQ2_K;
    case 11: return DType::kQ3_K;
    case 12: return DType::kQ4_K;
    case 13: return DType::kQ5_K;
    case 14: return DType::kQ6_K;
    case 15: return DType::kQ8_K;
    case 16: return DType::kIQ2_XXS;
    case 17: return DType::kIQ2_XS;
    case 18: return DType::kIQ3_XXS;
    case 19: return DType::kIQ1_S;
    case 20: return DType::kIQ4_NL;
    case 21: return DType::kIQ3_S;
    case 22: return DType::kIQ2_S;
    case 23: return DType::kIQ4_XS;
    case 24: return DType::kI8;
    case 25: return DType::kI16;
    case 26: return DType::kI32;
    case 27: return DType::kI64;
    case 28: return DType::kF64;
    case 29: return DType::kIQ1_M;
    case 30: return DType::kBF16;
    case 34: return DType::kTQ1_0;
    case 35: return DType::kTQ2_0;
    case 36: return DType::kI2_S;
    case 39: return DType::kMXFP4;
    case 40: return DType::kNVFP4;
    case 41: return DType::kQ1_0;
    default: return std::nullopt;
  }
}

std::optional<TensorFile> TryReadGguf(std::shared_ptr<const InputFile> file) {
  if (!file->StartsWith(kMagic)) return std::nullopt;
  return Reader(std::move(file)).Read();
}

}  // namespace paritrace
