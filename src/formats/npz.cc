#include "formats/npz.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <unordered_set>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <zlib.h>

#include "core/error.h"
#include "core/text.h"
#include "formats/npy.h"
#include "formats/owned_bytes.h"

namespace paritrace {
namespace {

constexpr std::string_view kLocalMagic = "PK\x03\x04";
constexpr std::string_view kEmptyMagic = "PK\x05\x06";  // an archive without members is only its end record
constexpr std::uint32_t kLocalSignature = 0x04034b50, kEntrySignature = 0x02014b50, kEndSignature = 0x06054b50;
constexpr std::uint32_t kEnd64Signature = 0x06064b50, kEnd64LocatorSignature = 0x07064b50;
constexpr std::uint64_t kEndSize = 22, kEnd64LocatorSize = 20, kEntrySize = 46;
constexpr std::uint16_t kZip64Field = 1, kEncryptedFlag = 1, kStored = 0, kDeflated = 8;
// Deflate spends at least two bits on a run of at most 258 bytes.
constexpr std::uint64_t kMaxRatio = 1032;

struct Directory {
  std::uint64_t offset = 0, size = 0, entries = 0;
};

struct Member {
  std::string name;
  std::uint16_t method = 0;
  std::uint32_t crc = 0;
  std::uint64_t compressed = 0, size = 0, header_offset = 0;
  std::span<const std::byte> data;
};

// A cursor at an absolute offset; its errors then name offsets in the file.
ByteReader At(const InputFile& file, std::uint64_t offset) {
  ByteReader bytes(file.name(), file.bytes());
  bytes.Take(offset, "archive before the record");
  return bytes;
}

std::uint64_t FindEnd(const InputFile& file) {
  const auto all = file.bytes();
  constexpr std::uint64_t kMaxComment = 65535;
  // The record is the last thing in the file but for a comment whose length it holds: the length tells it from a lookalike.
  for (std::uint64_t back = kEndSize; back <= all.size() && back <= kEndSize + kMaxComment; ++back) {
    const std::uint64_t at = all.size() - back;
    std::uint32_t signature;
    std::uint16_t comment;
    std::memcpy(&signature, all.data() + at, sizeof signature);
    std::memcpy(&comment, all.data() + at + kEndSize - 2, sizeof comment);
    if (signature == kEndSignature && comment == back - kEndSize) return at;
  }
  throw FormatError(file.name(), all.size(), "a zip archive's end record", "none (the file looks truncated)");
}

Directory ReadEnd(const InputFile& file) {
  const std::uint64_t end = FindEnd(file);
  ByteReader bytes = At(file, end + 10);
  Directory directory;
  directory.entries = bytes.Read<std::uint16_t>("end record");
  directory.size = bytes.Read<std::uint32_t>("end record");
  directory.offset = bytes.Read<std::uint32_t>("end record");
  if (end >= kEnd64LocatorSize) {
    ByteReader locator = At(file, end - kEnd64LocatorSize);
    if (locator.Read<std::uint32_t>("Zip64 locator") == kEnd64LocatorSignature) {
      (void)locator.Read<std::uint32_t>("Zip64 locator");
      ByteReader end64 = At(file, locator.Read<std::uint64_t>("Zip64 locator"));
      if (end64.Read<std::uint32_t>("Zip64 end record") != kEnd64Signature) {
        throw FormatError(file.name(), end64.offset() - 4, "a Zip64 end record", "another signature");
      }
      end64.Take(28, "Zip64 end record");
      directory.entries = end64.Read<std::uint64_t>("Zip64 end record");
      directory.size = end64.Read<std::uint64_t>("Zip64 end record");
      directory.offset = end64.Read<std::uint64_t>("Zip64 end record");
    }
  }
  return directory;
}

// Values that do not fit 32 bits stand in an extra field, in a fixed order, and only those that do not fit.
void ReadZip64(const InputFile& file, std::span<const std::byte> extra, Member& member) {
  constexpr std::uint64_t kInExtra = std::numeric_limits<std::uint32_t>::max();
  ByteReader bytes(file.name(), extra);
  while (bytes.left() >= 4) {
    const auto id = bytes.Read<std::uint16_t>("extra field");
    const auto size = bytes.Read<std::uint16_t>("extra field");
    const auto content = bytes.Take(size, "extra field of " + Quoted(member.name));
    if (id != kZip64Field) continue;
    ByteReader values(file.name(), content);
    for (std::uint64_t* value : {&member.size, &member.compressed, &member.header_offset}) {
      if (*value == kInExtra) *value = values.Read<std::uint64_t>("Zip64 field of " + Quoted(member.name));
    }
  }
}

std::vector<Member> ReadDirectory(const InputFile& file) {
  const Directory directory = ReadEnd(file);
  ByteReader start = At(file, directory.offset);
  const std::uint64_t first = start.offset();
  const auto records = start.Take(directory.size, "zip directory");
  if (directory.entries > records.size() / kEntrySize) {
    throw FormatError(file.name(), first, fmt::format("{} directory entries", directory.entries),
                      fmt::format("{} bytes of directory", records.size()));
  }
  ByteReader bytes(file.name(), records);
  std::vector<Member> members(directory.entries);
  std::unordered_set<std::string_view> names;
  for (Member& member : members) {
    const std::uint64_t at = first + bytes.offset();
    if (bytes.Read<std::uint32_t>("directory entry") != kEntrySignature) {
      throw FormatError(file.name(), at, "a zip directory entry", "another signature");
    }
    bytes.Take(4, "directory entry");
    const auto flags = bytes.Read<std::uint16_t>("directory entry");
    member.method = bytes.Read<std::uint16_t>("directory entry");
    bytes.Take(4, "directory entry");
    member.crc = bytes.Read<std::uint32_t>("directory entry");
    member.compressed = bytes.Read<std::uint32_t>("directory entry");
    member.size = bytes.Read<std::uint32_t>("directory entry");
    const auto name_size = bytes.Read<std::uint16_t>("directory entry");
    const auto extra_size = bytes.Read<std::uint16_t>("directory entry");
    const auto comment_size = bytes.Read<std::uint16_t>("directory entry");
    bytes.Take(8, "directory entry");
    member.header_offset = bytes.Read<std::uint32_t>("directory entry");
    const auto name = bytes.Take(name_size, "member name");
    member.name.assign(reinterpret_cast<const char*>(name.data()), name.size());
    ReadZip64(file, bytes.Take(extra_size, "extra fields of " + Quoted(member.name)), member);
    bytes.Take(comment_size, "comment of " + Quoted(member.name));
    // What torch.save writes is a zip of a pickle, which only the Python package reads.
    if (member.name.ends_with("/data.pkl") || member.name == "data.pkl") {
      throw FormatError(file.name(), "member " + Quoted(member.name), "an .npy array",
                        "an archive of torch.save; `paritrace import torch FILE -o TRACE` reads it");
    }
    if (!member.name.ends_with(".npy")) {
      throw FormatError(file.name(), "member " + Quoted(member.name), "an .npy array", "a file of another kind");
    }
    const bool leaves = member.name.starts_with('/') || member.name.starts_with("../") ||
                        member.name.find("/../") != std::string::npos || member.name.find('\0') != std::string::npos ||
                        member.name.find('\\') != std::string::npos;
    if (leaves) {
      throw FormatError(file.name(), "zip directory", "names inside the archive",
                        Quoted(member.name) + ", which leads out of it");
    }
    if (!names.insert(member.name).second)
      throw FormatError(file.name(), "zip directory", "each member once", Quoted(member.name) + " twice");
    if ((flags & kEncryptedFlag) != 0 || (member.method != kStored && member.method != kDeflated)) {
      throw FormatError(file.name(), "member " + Quoted(member.name), "a stored or deflated member",
                        (flags & kEncryptedFlag) != 0 ? "an encrypted one" : fmt::format("method {}", member.method));
    }
  }
  return members;
}

void LocateData(const InputFile& file, std::vector<Member>& members) {
  for (Member& member : members) {
    ByteReader bytes = At(file, member.header_offset);
    if (bytes.Read<std::uint32_t>("member header") != kLocalSignature) {
      throw FormatError(file.name(), member.header_offset, "the header of member " + Quoted(member.name),
                        "another signature");
    }
    bytes.Take(22, "member header");
    const auto name_size = bytes.Read<std::uint16_t>("member header");
    const auto extra_size = bytes.Read<std::uint16_t>("member header");
    bytes.Take(std::uint64_t{name_size} + extra_size, "member header");
    member.data = bytes.Take(member.compressed, "member " + Quoted(member.name));
  }
  // Overlapping members are how a small archive becomes a huge one.
  std::vector<const Member*> order;
  for (const Member& member : members) order.push_back(&member);
  std::sort(order.begin(), order.end(),
            [](const Member* a, const Member* b) { return a->header_offset < b->header_offset; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    if (order[i]->header_offset <
        static_cast<std::uint64_t>(order[i - 1]->data.data() + order[i - 1]->data.size() - file.bytes().data())) {
      throw FormatError(file.name(), "member " + Quoted(order[i]->name), "members that do not overlap",
                        "bytes of " + Quoted(order[i - 1]->name));
    }
  }
}

std::shared_ptr<OwnedBytes> Inflate(const InputFile& file, const Member& member) {
  const std::string place = "member " + Quoted(member.name);
  if (member.size / kMaxRatio > member.compressed) {
    throw FormatError(file.name(), place,
                      fmt::format("at most {} times its {} compressed bytes", kMaxRatio, member.compressed),
                      fmt::format("a claim of {} bytes", member.size));
  }
  auto owned = std::make_shared<OwnedBytes>(file.name(), member.size);
  z_stream stream{};
  constexpr int kRawDeflate = -15;  // zip has its own headers and checksum
  if (::inflateInit2(&stream, kRawDeflate) != Z_OK) throw std::bad_alloc();
  // zlib counts in 32 bits, so both sides are handed over in pieces.
  constexpr std::uint64_t kPiece = 1u << 30;
  std::uint64_t consumed = 0, produced = 0;
  int state = Z_OK;
  while (state == Z_OK) {
    const std::uint64_t in = std::min(kPiece, member.data.size() - consumed),
                        out = std::min(kPiece, member.size - produced);
    stream.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(member.data.data() + consumed));
    stream.avail_in = static_cast<uInt>(in);
    stream.next_out = reinterpret_cast<Bytef*>(owned->writable().data() + produced);
    stream.avail_out = static_cast<uInt>(out);
    state = ::inflate(&stream, Z_NO_FLUSH);
    consumed += in - stream.avail_in;
    produced += out - stream.avail_out;
  }
  ::inflateEnd(&stream);
  if (state != Z_STREAM_END || produced != member.size) {
    throw FormatError(
        file.name(), place, fmt::format("{} bytes of deflated data", member.size),
        state == Z_STREAM_END || state == Z_BUF_ERROR ? fmt::format("{} bytes", produced) : "a broken stream");
  }
  return owned;
}

void CheckSum(const InputFile& file, const Member& member, std::span<const std::byte> content) {
  const auto crc =
      static_cast<std::uint32_t>(::crc32_z(0, reinterpret_cast<const Bytef*>(content.data()), content.size()));
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
  if (crc != member.crc) return;  // a fuzzer cannot guess it, and would never come past this line
#endif
  if (crc != member.crc) {
    throw FormatError(file.name(), "member " + Quoted(member.name), fmt::format("CRC-32 {:08x}", member.crc),
                      fmt::format("{:08x}", crc));
  }
}

}  // namespace

std::optional<TensorFile> TryReadNpz(std::shared_ptr<const InputFile> file) {
  if (!file->StartsWith(kLocalMagic) && !file->StartsWith(kEmptyMagic)) return std::nullopt;
  std::vector<Member> members = ReadDirectory(*file);
  LocateData(*file, members);
  TensorFile result{.format = "npz", .tensors = {}, .metadata = nlohmann::ordered_json::object(), .files = {file}};
  for (const Member& member : members) {
    std::span<const std::byte> content = member.data;
    if (member.method == kDeflated) {
      const auto owned = Inflate(*file, member);
      content = owned->bytes();
      result.files.push_back(owned);
    } else if (member.size != member.compressed) {
      throw FormatError(file->name(), "member " + Quoted(member.name), fmt::format("{} stored bytes", member.size),
                        fmt::format("{}", member.compressed));
    }
    CheckSum(*file, member, content);
    AddNpyArray(fmt::format("{}: member {}", file->name(), Quoted(member.name)),
                member.name.substr(0, member.name.size() - 4), content, result);
  }
  return result;
}

}  // namespace paritrace
