#include "formats/npz.h"

#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include "core/decode.h"
#include "core/error.h"
#include "file_bytes.h"

namespace paritrace {
namespace {

using testing::Bytes;
using testing::FormatErrorOf;
using ::testing::HasSubstr;
using testing::InMemory;
using testing::NpyBytes;
using testing::Raw;

const std::string kArray = NpyBytes("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", Raw<float>({1, 2, 3}));

std::string Deflated(std::string_view text) {
  z_stream stream{};
  deflateInit2(&stream, 9, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY);
  std::string out(text.size() + 100, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// One member of an archive. Everything the directory says about it can be made a lie.
struct Member {
  std::string name, data;
  std::uint32_t method = 0, flags = 0, crc = 0;
  std::uint64_t compressed = 0, size = 0;
  std::uint64_t header_offset = ~0ull;  // where the directory says it is; ~0: where it is
  bool zip64 = false;

  static Member Stored(std::string name, std::string content) {
    Member member{.name = std::move(name), .data = content};
    member.size = member.compressed = content.size();
    member.crc = static_cast<std::uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(content.data()), content.size()));
    return member;
  }
  static Member Packed(std::string name, const std::string& content) {
    Member member = Stored(std::move(name), content);
    member.data = Deflated(content);
    member.compressed = member.data.size();
    member.method = 8;
    return member;
  }
  Member With(const std::function<void(Member&)>& change) const {
    Member changed = *this;
    change(changed);
    return changed;
  }
};

struct Archive {
  std::vector<Member> members = {};
  std::string comment = {};
  std::uint64_t claimed_entries = ~0ull, claimed_size = ~0ull;
  bool zip64 = false;

  [[nodiscard]] std::string str() const {
    Bytes file, directory;
    for (const Member& member : members) {
      const std::uint64_t at = member.header_offset == ~0ull ? file.str().size() : member.header_offset;
      file.U32(0x04034b50).U16(20).U16(member.flags).U16(member.method).U32(0).U32(0).U32(0).U32(0);
      file.U16(member.name.size()).U16(4).Text(member.name).U32(0).Text(member.data);
      const std::string extra =
          member.zip64 ? Bytes().U16(1).U16(24).U64(member.size).U64(member.compressed).U64(at).str() : "";
      directory.U32(0x02014b50).U16(20).U16(20).U16(member.flags).U16(member.method).U32(0).U32(member.crc);
      directory.U32(member.zip64 ? ~0u : member.compressed).U32(member.zip64 ? ~0u : member.size);
      directory.U16(member.name.size()).U16(extra.size()).U16(0).U16(0).U16(0).U32(0).U32(member.zip64 ? ~0u : at);
      directory.Text(member.name).Text(extra);
    }
    const std::uint64_t offset = file.str().size(),
                        size = claimed_size == ~0ull ? directory.str().size() : claimed_size;
    const std::uint64_t entries = claimed_entries == ~0ull ? members.size() : claimed_entries;
    file.Text(directory.str());
    if (zip64) {
      const std::uint64_t end64 = file.str().size();
      file.U32(0x06064b50).U64(44).U16(45).U16(45).U32(0).U32(0).U64(entries).U64(entries).U64(size).U64(offset);
      file.U32(0x07064b50).U32(0).U64(end64).U32(1);
    }
    file.U32(0x06054b50).U16(0).U16(0).U16(zip64 ? 0xffff : entries).U16(zip64 ? 0xffff : entries);
    file.U32(zip64 ? ~0u : size).U32(zip64 ? ~0u : offset).U16(comment.size()).Text(comment);
    return file.str();
  }
};

TEST(Npz, ReadsStoredAndDeflatedMembers) {
  for (const bool zip64 : {false, true}) {
    Archive archive{.members = {Member::Stored("a.npy", kArray), Member::Packed("deep/b.npy", kArray)},
                    .comment = "PK",
                    .zip64 = zip64};
    for (Member& member : archive.members) member.zip64 = zip64;
    const auto file = InMemory(archive.str());
    const TensorFile got = *TryReadNpz(file);
    EXPECT_EQ(got.format, "npz");
    ASSERT_EQ(got.tensors.size(), 2u);
    EXPECT_EQ(got.tensors[0].name, "a");
    EXPECT_EQ(got.tensors[1].name, "deep/b");
    for (const TensorView& tensor : got.tensors) EXPECT_EQ(DecodeAll(tensor), (std::vector<double>{1, 2, 3}));
    EXPECT_LT(static_cast<std::size_t>(got.tensors[0].bytes.data() - file->bytes().data()), file->bytes().size())
        << "not copied";
  }
}

TEST(Npz, ReadsAnEmptyArchiveAndLeavesOtherFilesToOthers) {
  EXPECT_EQ(TryReadNpz(InMemory(Archive{}.str()))->tensors.size(), 0u);
  EXPECT_FALSE(TryReadNpz(InMemory("PK")));
}

struct NpzCase {
  const char* name;
  std::string bytes;
  const char* message;
};
class MalformedNpz : public ::testing::TestWithParam<NpzCase> {};
TEST_P(MalformedNpz, IsRefusedWithItsPlace) {
  const std::string message = FormatErrorOf([] { return TryReadNpz(InMemory(GetParam().bytes, "w.npz")); });
  EXPECT_THAT(message, HasSubstr("w.npz: "));
  EXPECT_THAT(message, HasSubstr(GetParam().message));
  EXPECT_EQ(message.find('\n'), std::string::npos) << "one line";
}
const Member kStored = Member::Stored("a.npy", kArray), kPacked = Member::Packed("a.npy", kArray);
std::string One(const Member& member) { return Archive{.members = {member}}.str(); }

INSTANTIATE_TEST_SUITE_P(
    Table, MalformedNpz,
    ::testing::Values(
        NpzCase{"Truncated", One(kStored).substr(0, 120), "a zip archive's end record"},
        NpzCase{"OnlyMagic", "PK\x03\x04", "a zip archive's end record"},
        NpzCase{"DirectoryBeyondTheFile", Archive{.members = {kStored}, .claimed_size = 1u << 20}.str(),
                "1048576 bytes of zip directory"},
        NpzCase{"MoreEntriesThanBytes", Archive{.members = {kStored}, .claimed_entries = 60000}.str(),
                "60000 directory entries, found 51 bytes of directory"},
        NpzCase{"Zip64Claims2To60Entries",
                Archive{.members = {kStored}, .claimed_entries = 1ull << 60, .zip64 = true}.str(),
                "1152921504606846976 directory entries"},
        NpzCase{"HeaderBeyondTheFile", One(kStored.With([](Member& m) { m.header_offset = 1u << 30; })),
                "1073741824 bytes of archive before the record"},
        NpzCase{"HeaderIsNoHeader", One(kStored.With([](Member& m) { m.header_offset = 1; })),
                "the header of member \"a.npy\", found another signature"},
        NpzCase{"MemberBeyondTheFile", One(kStored.With([](Member& m) { m.compressed = 1u << 20; })),
                "1048576 bytes of member \"a.npy\""},
        NpzCase{"StoredSizesDiffer", One(kStored.With([](Member& m) { m.size += 4; })), "stored bytes, found"},
        NpzCase{"ChecksumDiffers", One(kStored.With([](Member& m) { m.crc ^= 1; })), "expected CRC-32"},
        // The claim alone must not reserve four gigabytes.
        NpzCase{"ClaimsMoreThanDeflateCanHold", One(kPacked.With([](Member& m) { m.size = 0xfffffffe; })),
                "a claim of 4294967294 bytes"},
        NpzCase{"InflatesToLess", One(kPacked.With([](Member& m) { m.size += 1; })), "bytes of deflated data, found"},
        NpzCase{"InflatesToMore", One(kPacked.With([](Member& m) { m.size -= 1; })), "bytes of deflated data"},
        NpzCase{"DeflateCut", One(kPacked.With([](Member& m) { m.compressed -= 3; })), "bytes of deflated data"},
        NpzCase{"DeflateBroken", One(kPacked.With([](Member& m) { m.data = std::string(m.data.size(), '\xff'); })),
                "a broken stream"},
        NpzCase{"Encrypted", One(kStored.With([](Member& m) { m.flags = 1; })), "an encrypted one"},
        NpzCase{"UnknownMethod", One(kStored.With([](Member& m) { m.method = 93; })),
                "a stored or deflated member, found method 93"},
        NpzCase{"TorchCheckpoint", One(Member::Stored("archive/data.pkl", "x")),
                "member \"archive/data.pkl\": expected an .npy array"},
        NpzCase{"MemberIsNoArray", One(Member::Stored("a.npy", "hello")), "member \"a.npy\": "},
        NpzCase{"NameTwice", Archive{.members = {kStored, kStored}}.str(), "each member once, found \"a.npy\" twice"},
        // A small archive whose members all point at the same bytes can grow without bound.
        NpzCase{
            "MembersOverlap",
            Archive{.members = {kStored, Member::Stored("b.npy", kArray).With([](Member& m) { m.header_offset = 0; })}}
                .str(),
            "members that do not overlap"}),
    [](const auto& row) { return row.param.name; });

}  // namespace
}  // namespace paritrace
