#include "trace/trace.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/decode.h"
#include "core/error.h"
#include "file_bytes.h"
#include "formats/safetensors.h"

namespace paritrace {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using testing::FormatErrorOf;
using ::testing::HasSubstr;
using testing::SafetensorsBytes;

void WriteText(const fs::path& path, std::string_view text) { std::ofstream(path, std::ios::binary) << text; }

// A trace directory written by hand, as a program that knows nothing but the format's description would.
class TraceDirectory : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    std::string name = fmt::format("trace_{}_{}", info->test_suite_name(), info->name());
    std::replace(name.begin(), name.end(), '/', '_');
    path_ = fs::path(::testing::TempDir()) / name;
    fs::remove_all(path_);
    fs::create_directories(path_);
    Header(R"({"format":"paritrace/1"})");
    WriteText(
        path_ / "t.safetensors",
        SafetensorsBytes(
            R"({"0/layers.0.attn.q":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"x":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]}})",
            14));
  }
  void TearDown() override { fs::remove_all(path_); }

  void Header(std::string_view text) { WriteText(path_ / "trace.json", text); }
  void Index(std::string_view text) { WriteText(path_ / "index.jsonl", text); }
  [[nodiscard]] Trace Open() const { return OpenTrace(path_.string()); }

  fs::path path_;
};

constexpr std::string_view kGood =
    R"({"seq":0,"step":0,"name":"model.layers.0.self_attn.q_proj","site":"layers.0.attn.q","shape":[1,2],"dtype":"f32",)"
    R"("file":"t.safetensors","key":"0/layers.0.attn.q","hash":"xxh3:00","stats":{"rms":1.5},"sketch":"abc"})";

TEST_F(TraceDirectory, ReadsHeaderAndEntries) {
  Header(
      R"({"format":"paritrace/1","engine":{"name":"hf","version":"5"},"model":{"name":"m","architecture":"llama","file":"f"},)"
      R"("run":{"tokens":[[1,403,7],[2]],"text":["a"],"steps":[{"step":0,"start":0,"count":2},{"step":1,"start":2,"count":1}],)"
      R"("arithmetic":"torch-bf16"},"status":"complete","mine":[1]})");
  Index(fmt::format("{}\n{}\n", kGood,
                    R"({"seq":1,"step":1,"name":"x","shape":[3],"dtype":"BF16","file":"t.safetensors","key":"x"})"));
  const Trace trace = Open();
  EXPECT_EQ(trace.header.engine_name, "hf");
  EXPECT_EQ(trace.header.engine_version, "5");
  EXPECT_EQ(trace.header.model_architecture, "llama");
  EXPECT_EQ(trace.header.arithmetic, "torch-bf16");
  EXPECT_EQ(trace.header.tokens, (std::vector<std::vector<std::int64_t>>{{1, 403, 7}, {2}}));
  ASSERT_EQ(trace.header.steps.size(), 2u);
  EXPECT_EQ(trace.header.steps[1].start, 2);
  EXPECT_TRUE(trace.header.complete);
  EXPECT_EQ(trace.header.raw["mine"].dump(), "[1]");
  EXPECT_TRUE(trace.has_order);
  ASSERT_EQ(trace.entries.size(), 2u);
  const TraceEntry& q = trace.entries[0];
  EXPECT_EQ(q.site, "layers.0.attn.q");
  EXPECT_EQ(q.tensor.shape, (Shape{1, 2}));
  EXPECT_EQ(DecodeAll(q.tensor), (std::vector<double>{0, 0}));
  EXPECT_EQ(q.hash, "xxh3:00");
  EXPECT_EQ(q.stats["rms"], 1.5);
  EXPECT_EQ(q.sketch, "abc");
  EXPECT_EQ(trace.entries[1].site, "");
  EXPECT_TRUE(trace.entries[1].stats.is_null());
  EXPECT_EQ(trace.Find(0, "layers.0.attn.q"), &q);
  EXPECT_EQ(trace.Find(1, "layers.0.attn.q"), nullptr);
  EXPECT_THAT(trace.Steps(), ElementsAre(0, 1));
}

TEST_F(TraceDirectory, OnlyTheFormatIsRequiredAndNullIsAbsent) {
  Header(R"({"format":"paritrace/1","engine":{"name":null},"run":null,"status":null})");
  Index("");
  EXPECT_TRUE(Open().entries.empty());
}

// A trace without a site leaves the mapping to the reader.
TEST_F(TraceDirectory, MapsNamesByTheRulesOfItsEngine) {
  const std::string line =
      R"({"seq":0,"step":0,"name":"model.layers.4.self_attn.k_proj","shape":[3],"dtype":"torch.bfloat16","file":"t.safetensors","key":"x"})";
  Index(line + "\n");
  for (const char* header :
       {R"({"format":"paritrace/1","engine":{"name":"hf"}})",
        R"({"format":"paritrace/1","engine":{"name":"my engine"}})", R"({"format":"paritrace/1"})"}) {
    Header(header);
    EXPECT_EQ(Open().entries[0].site, "layers.4.attn.k") << header;
  }
  Header(R"({"format":"paritrace/1","engine":{"name":"llamacpp"}})");
  EXPECT_EQ(Open().entries[0].site, "") << "an engine with rules of its own is not guessed at with those of others";
}

TEST_F(TraceDirectory, DigestEntriesHaveNoValues) {
  Index(R"({"seq":0,"step":0,"name":"embed","shape":[3,4],"dtype":"f32","hash":"xxh3:00"})"
        "\n");
  const Trace trace = Open();
  EXPECT_FALSE(trace.entries[0].has_data());
  EXPECT_EQ(trace.entries[0].tensor.size(), 12);
  EXPECT_EQ(trace.entries[0].site, "embed");
}

TEST_F(TraceDirectory, ATornLastLineOfAnOpenTraceIsIgnored) {
  Header(R"({"format":"paritrace/1","status":"open"})");
  Index(fmt::format("{}\n{}", kGood, kGood.substr(0, 40)));
  EXPECT_EQ(Open().entries.size(), 1u);
  EXPECT_FALSE(Open().header.complete);
  Index(kGood);  // whole, but for its newline
  EXPECT_EQ(Open().entries.size(), 1u);
  fs::remove(path_ / "index.jsonl");
  EXPECT_TRUE(Open().entries.empty());
}

TEST_F(TraceDirectory, ATensorFileOfAnOpenTraceMayEndInDataNobodyNames) {
  Index(fmt::format("{}\n", kGood));
  std::ofstream(path_ / "t.safetensors", std::ios::binary | std::ios::app) << "half a tensor";
  EXPECT_THAT(FormatErrorOf([this] { return Open(); }), HasSubstr("tensors that cover all 27 bytes of data"));
  Header(R"({"format":"paritrace/1","status":"open"})");
  EXPECT_EQ(Open().entries.size(), 1u);
}

TEST_F(TraceDirectory, LinksInsideAreFineLinksOutAreNot) {
  fs::create_symlink("t.safetensors", path_ / "inside.safetensors");
  Index(R"({"seq":0,"step":0,"name":"x","shape":[3],"dtype":"bf16","file":"inside.safetensors","key":"x"})");
  EXPECT_EQ(Open().entries.size(), 1u);
  const fs::path elsewhere = path_.string() + "_elsewhere.safetensors";
  fs::copy_file(path_ / "t.safetensors", elsewhere, fs::copy_options::overwrite_existing);
  fs::create_symlink(elsewhere, path_ / "outside.safetensors");
  Index(R"({"seq":0,"step":0,"name":"x","shape":[3],"dtype":"bf16","file":"outside.safetensors","key":"x"})");
  EXPECT_THAT(FormatErrorOf([this] { return Open(); }),
              HasSubstr("line 1: expected a file inside the trace, found \"outside.safetensors\", a link out of it"));
  fs::remove(elsewhere);
}

TEST_F(TraceDirectory, NeitherHeaderNorIndexMayLinkOut) {
  Index(fmt::format("{}\n", kGood));
  for (const char* name : {"trace.json", "index.jsonl"}) {
    const fs::path elsewhere = path_.string() + "_" + name;
    fs::rename(path_ / name, elsewhere);
    fs::create_symlink(elsewhere, path_ / name);
    EXPECT_THAT(FormatErrorOf([this] { return Open(); }), HasSubstr(fmt::format("\"{}\", a link out of it", name)));
    fs::remove(path_ / name);
    fs::rename(elsewhere, path_ / name);
  }
  (void)Open();
}

// A folder whose name begins like the trace's is not inside it.
TEST_F(TraceDirectory, ANeighbourIsOutside) {
  const fs::path neighbour = path_.string() + "2";
  fs::create_directories(neighbour);
  fs::copy_file(path_ / "t.safetensors", neighbour / "t.safetensors", fs::copy_options::overwrite_existing);
  fs::create_directory_symlink(neighbour, path_ / "sub");
  Index(R"({"seq":0,"step":0,"name":"x","shape":[3],"dtype":"bf16","file":"sub/t.safetensors","key":"x"})");
  EXPECT_THAT(FormatErrorOf([this] { return Open(); }), HasSubstr("a link out of it"));
  fs::remove_all(neighbour);
}

TEST_F(TraceDirectory, AnotherFolderIsNoTrace) {
  fs::remove(path_ / "trace.json");
  EXPECT_THROW((void)Open(), UsageError);
}

struct HeaderCase {
  const char* name;
  const char* header;
  const char* message;
};
class MalformedHeader : public TraceDirectory, public ::testing::WithParamInterface<HeaderCase> {};
TEST_P(MalformedHeader, IsRefusedWithItsPlace) {
  Header(GetParam().header);
  Index("");
  EXPECT_THAT(FormatErrorOf([this] { return Open(); }), HasSubstr(std::string("trace.json: ") + GetParam().message));
}
INSTANTIATE_TEST_SUITE_P(
    Table, MalformedHeader,
    ::testing::Values(
        HeaderCase{"NotJson", "{", "header: expected valid JSON"},
        HeaderCase{"NoObject", "[]", "header: expected an object, found an array"},
        HeaderCase{"NoFormat", "{}", "format: expected \"paritrace/1\", found no such key"},
        HeaderCase{"OtherFormat", R"({"format":"paritrace/2"})",
                   "format: expected \"paritrace/1\", found \"paritrace/2\""},
        HeaderCase{"EngineText", R"({"format":"paritrace/1","engine":"hf"})",
                   "engine: expected an object, found \"hf\""},
        HeaderCase{"EngineNameNumber", R"({"format":"paritrace/1","engine":{"name":3}})",
                   "engine.name: expected a string, found 3"},
        HeaderCase{"TokensFlat", R"({"format":"paritrace/1","run":{"tokens":[1,2]}})",
                   "run.tokens: expected one list of ids a sequence, found 1"},
        HeaderCase{"TokenText", R"({"format":"paritrace/1","run":{"tokens":[["a"]]}})",
                   "run.tokens: expected an integer"},
        HeaderCase{"TokenFraction", R"({"format":"paritrace/1","run":{"tokens":[[1.5]]}})",
                   "run.tokens: expected an integer"},
        HeaderCase{"TokenHuge", R"({"format":"paritrace/1","run":{"tokens":[[18446744073709551615]]}})",
                   "run.tokens: expected an integer"},
        HeaderCase{"StepsObject", R"({"format":"paritrace/1","run":{"steps":{}}})", "run.steps: expected a list"},
        HeaderCase{"StepWithoutCount", R"({"format":"paritrace/1","run":{"steps":[{"step":0,"start":0}]}})",
                   "run.steps.count: expected an integer, found no such key"},
        HeaderCase{"StepNegative", R"({"format":"paritrace/1","run":{"steps":[{"step":-1,"start":0,"count":1}]}})",
                   "run.steps.step: expected an integer from 0, found -1"},
        HeaderCase{"StatusOther", R"({"format":"paritrace/1","status":"done"})",
                   "status: expected \"open\" or \"complete\", found \"done\""}),
    [](const auto& row) { return row.param.name; });

struct IndexCase {
  const char* name;
  std::string line;
  const char* message;
};
class MalformedIndex : public TraceDirectory, public ::testing::WithParamInterface<IndexCase> {};
TEST_P(MalformedIndex, IsRefusedWithItsLine) {
  Index(fmt::format("{}\n{}\n", kGood, GetParam().line));
  const std::string message = FormatErrorOf([this] { return Open(); });
  EXPECT_THAT(message, HasSubstr("index.jsonl: line 2: "));
  EXPECT_THAT(message, HasSubstr(GetParam().message));
  EXPECT_EQ(message.find('\n'), std::string::npos) << "one line";
}
std::string InFile(std::string_view file, std::string_view key) {
  return fmt::format(R"({{"seq":1,"step":0,"name":"x","shape":[3],"dtype":"bf16","file":"{}","key":"{}"}})", file, key);
}
INSTANTIATE_TEST_SUITE_P(
    Table, MalformedIndex,
    ::testing::Values(
        IndexCase{"NotJson", "{\"seq\":", "valid JSON"},
        IndexCase{"DeepJson", std::string(100'000, '['), "at most 64 levels deep"},
        IndexCase{"NoObject", "7", "an object, found 7"},
        IndexCase{"NoSeq", R"({"step":0})", "a count as \"seq\", found no such key"},
        IndexCase{"StepNegative", R"({"seq":1,"step":-1})", "a count as \"step\", found -1"},
        IndexCase{"StepHuge", R"({"seq":1,"step":4294967296})", "a count as \"step\", found 4294967296"},
        IndexCase{"NameNumber", R"({"seq":1,"step":0,"name":1})", "a string as \"name\", found 1"},
        IndexCase{"SiteNumber", R"({"seq":1,"step":0,"name":"x","site":1})", "a string as \"site\", found 1"},
        IndexCase{"StatsList", R"({"seq":1,"step":0,"name":"x","stats":[]})", "an object as \"stats\", found an array"},
        IndexCase{"NoDType", R"({"seq":1,"step":0,"name":"x","shape":[3]})", "a string as \"dtype\""},
        IndexCase{"DTypeUnknown", R"({"seq":1,"step":0,"name":"x","shape":[3],"dtype":"f33"})",
                  "a dtype such as \"f32\", found \"f33\""},
        IndexCase{"ShapeText", R"({"seq":1,"step":0,"name":"x","shape":"3","dtype":"f32"})",
                  "a list as \"shape\", found \"3\""},
        IndexCase{"ShapeNegative", R"({"seq":1,"step":0,"name":"x","shape":[-3],"dtype":"f32"})",
                  "sizes in \"shape\", found -3"},
        IndexCase{"ShapeOverflows", R"({"seq":1,"step":0,"name":"x","shape":[4294967296,4294967296],"dtype":"f32"})",
                  "a shape that fits in memory"},
        IndexCase{"NoKey", R"({"seq":1,"step":0,"name":"x","shape":[3],"dtype":"bf16","file":"t.safetensors"})",
                  "a string as \"key\""},
        IndexCase{"KeyMissing", InFile("t.safetensors", "y"), "key \"y\" in \"t.safetensors\", found no such tensor"},
        IndexCase{"FileMissing", InFile("u.safetensors", "x"), "the file \"u.safetensors\" inside the trace"},
        IndexCase{"FileAbsolute", InFile("/etc/passwd", "x"), "a file inside the trace, found \"/etc/passwd\""},
        IndexCase{"FileAbove", InFile("../t.safetensors", "x"), "a file inside the trace, found \"../t.safetensors\""},
        IndexCase{"FileAboveAndBack", InFile("a/../t.safetensors", "x"), "a file inside the trace"},
        IndexCase{"FileWithNul", InFile("t.safetensors\\u0000.txt", "x"), "a file inside the trace"},
        IndexCase{"ShapeDiffers",
                  R"({"seq":1,"step":0,"name":"x","shape":[1,3],"dtype":"bf16","file":"t.safetensors","key":"x"})",
                  "bf16 [3] as in \"t.safetensors\", found bf16 [1, 3]"},
        IndexCase{"DTypeDiffers",
                  R"({"seq":1,"step":0,"name":"x","shape":[3],"dtype":"f16","file":"t.safetensors","key":"x"})",
                  "found f16 [3]"}),
    [](const auto& row) { return row.param.name; });

TEST_F(TraceDirectory, FilesOfOtherFormatsAreRefused) {
  WriteText(path_ / "t.safetensors", "not a tensor file");
  Index(fmt::format("{}\n", kGood));
  EXPECT_THAT(FormatErrorOf([this] { return Open(); }),
              HasSubstr("t.safetensors: at byte 0: expected a safetensors file"));
}

// One file, as any program writes it: no metadata, an order of its own, names of its own.
TEST_F(TraceDirectory, AnybodysSafetensorsFileIsATrace) {
  const std::string path = (path_ / "dump.safetensors").string();
  WriteSafetensors(path, std::vector<TensorView>{{"1/logits", DType::kF32, {0}, {}},
                                                 {"lm_head", DType::kF32, {0}, {}},
                                                 {"12", DType::kF32, {0}, {}},
                                                 {"a/b", DType::kF32, {0}, {}},
                                                 {"model.layers.0.self_attn.q_proj", DType::kF32, {0}, {}},
                                                 {"0/model.layers.0.self_attn.k_proj", DType::kF32, {0}, {}},
                                                 {"1/layers.0.attn.q", DType::kF32, {0}, {}},
                                                 {"4294967296/embed", DType::kF32, {0}, {}},
                                                 {"0/embed", DType::kF32, {0}, {}}});
  const Trace trace = OpenTrace(path);
  EXPECT_FALSE(trace.has_order);
  std::vector<std::string> seen;
  for (const TraceEntry& entry : trace.entries)
    seen.push_back(fmt::format("{} {} {} {}", entry.seq, entry.step, entry.site, entry.name));
  EXPECT_THAT(seen, ElementsAre("0 0 embed embed", "1 0 layers.0.attn.q model.layers.0.self_attn.q_proj",
                                "2 0 layers.0.attn.k model.layers.0.self_attn.k_proj", "3 0 logits lm_head", "4 0  12",
                                "5 0  a/b", "6 0  4294967296/embed", "7 1 layers.0.attn.q layers.0.attn.q",
                                "8 1 logits logits"));
  EXPECT_TRUE(trace.header.raw.is_null() || trace.header.raw.empty());
}

TEST_F(TraceDirectory, ASingleFileMayCarryTheHeader) {
  const std::string path = (path_ / "dump.safetensors").string();
  WriteSafetensors(path, {},
                   {{"paritrace", R"({"format":"paritrace/1","engine":{"name":"hf"},"run":{"tokens":[[1]]}})"}});
  EXPECT_EQ(OpenTrace(path).header.engine_name, "hf");
  WriteSafetensors(path, {}, {{"paritrace", "{\"format\":7}"}});
  EXPECT_THAT(FormatErrorOf([&] { return OpenTrace(path); }),
              HasSubstr("dump.safetensors: paritrace: format: expected \"paritrace/1\", found 7"));
  std::ofstream(path, std::ios::binary | std::ios::app) << "tail";
  WriteSafetensors(path, {}, {{"paritrace", R"({"format":"paritrace/1","status":"open"})"}});
  std::ofstream(path, std::ios::binary | std::ios::app) << "tail";
  EXPECT_FALSE(OpenTrace(path).header.complete) << "what an engine that died leaves";
}

}  // namespace
}  // namespace paritrace
