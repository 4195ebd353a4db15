#include "formats/npy.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/error.h"
#include "core/output_file.h"
#include "core/text.h"
#include "formats/owned_bytes.h"

namespace paritrace {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kMaxAxes = 64;  // NumPy's own limit since 2.0

struct Header {
  std::string descr;
  bool fortran_order = false;
  Shape shape;
};

// The header is a Python dict whose keys may come in any order, so it is parsed, never indexed by column.
class HeaderParser {
 public:
  HeaderParser(const std::string& file, std::string_view text) : file_(file), text_(text) {}

  Header Parse() {
    Header header;
    bool seen_descr = false, seen_order = false, seen_shape = false;
    Expect('{');
    while (!Accept('}')) {
      const std::string key = String();
      Expect(':');
      if (key == "descr" && !std::exchange(seen_descr, true)) {
        header.descr = String();
      } else if (key == "fortran_order" && !std::exchange(seen_order, true)) {
        header.fortran_order = Bool();
      } else if (key == "shape" && !std::exchange(seen_shape, true)) {
        header.shape = Tuple();
      } else {
        Fail("each of descr, fortran_order, shape once", Quoted(key));
      }
      if (!Accept(',')) {
        Expect('}');
        break;
      }
    }
    if (!seen_descr || !seen_order || !seen_shape) Fail("descr, fortran_order and shape", "fewer keys");
    SkipSpace();
    if (at_ != text_.size()) Fail("the header to end", Rest());
    return header;
  }

 private:
  [[noreturn]] void Fail(std::string_view expected, std::string_view found) const {
    throw FormatError(file_, fmt::format("header, its byte {}", at_), expected, found);
  }
  [[nodiscard]] std::string Rest() const { return at_ < text_.size() ? Quoted(text_.substr(at_), 20) : "its end"; }

  void SkipSpace() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_])) != 0) ++at_;
  }
  bool Accept(char wanted) {
    SkipSpace();
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }
  void Expect(char wanted) {
    if (!Accept(wanted)) Fail(fmt::format("'{}'", wanted), Rest());
  }

  std::string String() {
    SkipSpace();
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') Fail("a string", Rest());  // a record's descr is a list
    const std::size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) Fail("a closing quote", "none");
    std::string value(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return value;
  }

  bool Bool() {
    SkipSpace();
    for (const auto& [word, value] :
         {std::pair{std::string_view("True"), true}, std::pair{std::string_view("False"), false}}) {
      if (text_.substr(at_, word.size()) == word) {
        at_ += word.size();
        return value;
      }
    }
    Fail("True or False", Rest());
  }

  Shape Tuple() {
    Shape shape;
    Expect('(');
    while (!Accept(')')) {
      if (shape.size() == kMaxAxes) Fail(fmt::format("at most {} axes", kMaxAxes), "more");
      shape.push_back(Integer());
      (void)Accept('L');  // Python 2 wrote its long integers so
      if (!Accept(',')) {
        Expect(')');
        break;
      }
    }
    return shape;
  }

  std::int64_t Integer() {
    SkipSpace();
    std::int64_t value = 0;
    const std::size_t first = at_;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      if (__builtin_mul_overflow(value, std::int64_t{10}, &value) ||
          __builtin_add_overflow(value, std::int64_t{text_[at_] - '0'}, &value)) {
        Fail("a size below 2^63", Quoted(text_.substr(first), 20));
      }
    }
    if (at_ == first) Fail("a size", Rest());
    return value;
  }

  const std::string& file_;
  std::string_view text_;
  std::size_t at_ = 0;
};

struct Element {
  DType dtype;
  bool swapped;
};

Element ParseDescr(const std::string& file, const std::string& descr) {
  constexpr std::array kTypes = {
      std::pair{std::string_view("f8"), DType::kF64},    std::pair{std::string_view("f4"), DType::kF32},
      std::pair{std::string_view("f2"), DType::kF16},    std::pair{std::string_view("V2"), DType::kBF16},
      std::pair{std::string_view("f1"), DType::kF8E5M2}, std::pair{std::string_view("i1"), DType::kI8},
      std::pair{std::string_view("i2"), DType::kI16},    std::pair{std::string_view("i4"), DType::kI32},
      std::pair{std::string_view("i8"), DType::kI64},    std::pair{std::string_view("u1"), DType::kU8},
      std::pair{std::string_view("u2"), DType::kU16},    std::pair{std::string_view("u4"), DType::kU32},
      std::pair{std::string_view("u8"), DType::kU64},    std::pair{std::string_view("b1"), DType::kBool},
  };
  const std::string_view text = descr;
  if (text.size() == 3 && std::string_view("<>|=").find(text[0]) != std::string_view::npos) {
    for (const auto& [name, dtype] : kTypes) {
      if (text.substr(1) == name) return {dtype, text[0] == '>'};
    }
  }
  throw FormatError(file, "header", "a descr of plain numbers such as '<f4'", Quoted(descr, 40));
}

// The same values little-endian and in row-major order; `bytes` holds them swapped, or with the first axis varying fastest.
std::shared_ptr<OwnedBytes> Rearrange(const std::string& file, std::span<const std::byte> bytes, const Shape& shape,
                                      std::size_t width, bool swapped, bool fortran_order) {
  auto owned = std::make_shared<OwnedBytes>(file, bytes.size());
  std::byte* out = owned->writable().data();
  std::vector<std::int64_t> index(shape.size(), 0), stride(shape.size(), 1);
  if (fortran_order) {
    for (std::size_t axis = 1; axis < shape.size(); ++axis) stride[axis] = stride[axis - 1] * shape[axis - 1];
  } else {
    for (std::size_t axis = shape.size(); axis-- > 1;) stride[axis - 1] = stride[axis] * shape[axis];
  }
  std::int64_t from = 0;
  for (std::size_t done = 0; done < bytes.size(); done += width) {
    std::memcpy(out + done, bytes.data() + static_cast<std::size_t>(from) * width, width);
    if (swapped) std::reverse(out + done, out + done + width);
    for (std::size_t axis = shape.size(); axis-- > 0;) {  // count up, last axis fastest
      from += stride[axis];
      if (++index[axis] < shape[axis]) break;
      from -= stride[axis] * std::exchange(index[axis], 0);
    }
  }
  return owned;
}

std::string StemOf(const std::string& path) {
  std::string name = path.substr(path.find_last_of('/') + 1);
  if (name.ends_with(".npy")) name.resize(name.size() - 4);
  return name;
}

template <typename Value>
void Write(const std::string& path, std::string_view descr, const Shape& shape, std::span<const Value> values) {
  if (ElementCount(shape) != static_cast<std::int64_t>(values.size()))
    throw InternalError("shape and values differ in size");
  std::string header = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}{}), }}", descr,
                                   fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
  constexpr std::size_t kPrefix = 10, kAlignment = 64;  // magic, version, length; numpy aligns the data to 64
  header.resize((kPrefix + header.size() + 1 + kAlignment - 1) / kAlignment * kAlignment - kPrefix - 1, ' ');
  header += '\n';
  OutputFile file(path, OutputFile::Mode::kAtomic);
  const auto length = static_cast<std::uint16_t>(header.size());
  file.Append(kMagic);
  file.Append(std::string_view("\x01\x00", 2));
  file.Append(std::as_bytes(std::span(&length, 1)));
  file.Append(header);
  file.Append(std::as_bytes(values));
  file.Commit();
}

}  // namespace

void AddNpyArray(const std::string& file, const std::string& tensor_name, std::span<const std::byte> all,
                 TensorFile& result) {
  ByteReader bytes(file, all);
  bytes.Take(kMagic.size(), "magic");
  const auto major = bytes.Read<std::uint8_t>("version");
  (void)bytes.Read<std::uint8_t>("version");
  if (major < 1 || major > 3) throw FormatError(file, kMagic.size(), "version 1, 2 or 3", fmt::format("{}", major));
  const std::uint64_t length =
      major == 1 ? bytes.Read<std::uint16_t>("header length") : bytes.Read<std::uint32_t>("header length");
  const auto text = bytes.Take(length, "header");
  const Header header = HeaderParser(file, {reinterpret_cast<const char*>(text.data()), text.size()}).Parse();
  const Element element = ParseDescr(file, header.descr);
  TensorView tensor{tensor_name, element.dtype, header.shape, {}};
  const auto size = ByteCount(tensor.shape, tensor.dtype);
  if (!size) throw FormatError(file, "header", "a shape that fits in memory", ToString(tensor.shape));
  if (static_cast<std::uint64_t>(*size) != bytes.left()) {
    throw FormatError(file, bytes.offset(),
                      fmt::format("{} bytes of data ({} {})", *size, Name(tensor.dtype), ToString(tensor.shape)),
                      fmt::format("{}", bytes.left()));
  }
  tensor.bytes = bytes.Take(bytes.left(), "data");
  const auto width = static_cast<std::size_t>(Info(tensor.dtype).block_bytes);
  const bool fortran_order = header.fortran_order && tensor.shape.size() > 1;
  if (!tensor.bytes.empty() && ((element.swapped && width > 1) || fortran_order)) {
    const auto owned = Rearrange(file, tensor.bytes, tensor.shape, width, element.swapped, fortran_order);
    tensor.bytes = owned->bytes();
    result.files.push_back(owned);
  }
  result.tensors.push_back(std::move(tensor));
}

std::optional<TensorFile> TryReadNpy(std::shared_ptr<const InputFile> file) {
  if (!file->StartsWith(kMagic)) return std::nullopt;
  TensorFile result{.format = "npy", .tensors = {}, .metadata = nlohmann::ordered_json::object(), .files = {file}};
  AddNpyArray(file->name(), StemOf(file->name()), file->bytes(), result);
  return result;
}

void WriteNpy(const std::string& path, const Shape& shape, std::span<const float> values) {
  Write(path, "<f4", shape, values);
}
void WriteNpy(const std::string& path, const Shape& shape, std::span<const double> values) {
  Write(path, "<f8", shape, values);
}

}  // namespace paritrace
