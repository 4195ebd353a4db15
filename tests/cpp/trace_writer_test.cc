#include "trace/trace_writer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/decode.h"
#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "formats/safetensors.h"
#include "formats/safetensors_stream.h"
#include "trace/tensor_stats.h"
#include "trace/trace.h"

namespace paritrace {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();

template <typename Error, typename Call>
std::string MessageOf(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing thrown";
}

class TraceWriterTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    std::string name = fmt::format("{}_{}", info->test_suite_name(), info->name());  // tests run side by side
    std::replace(name.begin(), name.end(), '/', '_');
    root_ = fs::path(::testing::TempDir()) / name;
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  void TearDown() override { fs::remove_all(root_); }
  [[nodiscard]] std::string Path(std::string_view name) const { return (root_ / name).string(); }

  static TensorView View(DType dtype, const Shape& shape, std::span<const float> values) {
    return {"", dtype, shape, std::as_bytes(values)};
  }

  fs::path root_;
};

// Both forms of a trace.
INSTANTIATE_TEST_SUITE_P(Forms, TraceWriterTest, ::testing::Values("trace", "trace.safetensors"), [](const auto& row) {
  return std::string(row.param) == "trace" ? "Directory" : "SingleFile";
});

TEST_P(TraceWriterTest, WhatIsWrittenReadsBack) {
  const std::array<float, 4> values = {1, -2, kNaN, kInf};
  const std::string path = Path(GetParam());
  {
    TraceWriter writer(path, {{"engine", {{"name", "toy"}}}, {"mine", 1}});
    writer.Record(0, "q_proj", "layers.0.attn.q", View(DType::kF32, {2, 2}, values));
    writer.Record(0, "odd \"name\"\n", "", View(DType::kF32, {1}, std::span(values).first(1)));
    writer.Record(0, "half", "layers.0.in", {"", DType::kBF16, {1}, std::as_bytes(std::span(values)).first(2)});
    writer.Record(1, "q_proj", "layers.0.attn.q", View(DType::kF32, {4}, values));
    writer.Record(1, "empty", "", View(DType::kF32, {0}, {}));
    writer.UpdateHeader({{"run", {{"tokens", {{5, 6}}}}}});
    writer.UpdateHeader({{"run", {{"arithmetic", "f32"}}}});
    writer.Close();
  }
  const Trace trace = OpenTrace(path);
  EXPECT_TRUE(trace.header.complete);
  EXPECT_EQ(trace.header.engine_name, "toy");
  EXPECT_EQ(trace.header.raw["mine"], 1);
  EXPECT_EQ(trace.header.tokens, (std::vector<std::vector<std::int64_t>>{{5, 6}}));
  EXPECT_EQ(trace.header.arithmetic, "f32") << "merged, not replaced";
  ASSERT_EQ(trace.entries.size(), 5u);
  const TraceEntry* q = trace.Find(0, "layers.0.attn.q");
  ASSERT_NE(q, nullptr);
  EXPECT_EQ(q->tensor.shape, (Shape{2, 2}));
  EXPECT_EQ(HashBytes(q->tensor.bytes), HashBytes(std::as_bytes(std::span(values))));
  EXPECT_EQ(trace.Find(1, "layers.0.attn.q")->tensor.shape, Shape{4});
  EXPECT_EQ(trace.Find(0, "layers.0.in")->tensor.dtype, DType::kBF16);
  EXPECT_TRUE(std::any_of(trace.entries.begin(), trace.entries.end(),
                          [](const TraceEntry& e) { return e.name == "odd \"name\"\n"; }));
  if (trace.has_order) {
    EXPECT_EQ(q->name, "q_proj");
    EXPECT_EQ(q->hash, HashBytes(std::as_bytes(std::span(values))));
    EXPECT_EQ(q->stats.dump(), fmt::format(R"({{"min":-2.0,"max":1.0,"mean":-0.5,"rms":{},"nan":1,"inf":1}})",
                                           Json(std::sqrt(2.5)).dump()));
  }
}

TEST_P(TraceWriterTest, RepeatedNamesGetTheirOwnKeys) {
  const std::array<float, 1> values = {1};
  const std::string path = Path(GetParam());
  TraceWriter writer(path, Json::object());
  for (const char* name : {"x", "x#2", "x", "x"}) writer.Record(0, name, "", View(DType::kF32, {1}, values));
  writer.Close();
  const Trace trace = OpenTrace(path);
  std::vector<std::string> names;
  for (const TraceEntry& entry : trace.entries) names.push_back(entry.name);
  if (trace.has_order) {
    EXPECT_THAT(names, ElementsAre("x", "x#2", "x", "x"));
  } else {
    EXPECT_THAT(names, ElementsAre("x", "x#2", "x#3", "x#4"));
  }
}

// An engine that dies after any call leaves a trace that opens, with everything recorded until then.
TEST_P(TraceWriterTest, EveryStateOnTheWayOpens) {
  const std::array<float, 3> values = {1, 2, 3};
  const std::string path = Path(GetParam());
  TraceWriter writer(path, {{"engine", {{"name", "toy"}}}});
  for (std::size_t count = 0; count < 40; ++count) {
    const Trace trace = OpenTrace(path);
    EXPECT_FALSE(trace.header.complete);
    ASSERT_EQ(trace.entries.size(), count);
    for (const TraceEntry& entry : trace.entries) ASSERT_EQ(DecodeAll(entry.tensor), (std::vector<double>{1, 2, 3}));
    writer.Record(0, fmt::format("t{}", count), "", View(DType::kF32, {3}, values));
    if (count % 7 == 0) writer.UpdateHeader({{"note", std::string(count % 14 == 0 ? 500 : 5, 'x')}});
  }
}

TEST_P(TraceWriterTest, AnExistingTraceGoesOnlyWhenAsked) {
  const std::array<float, 1> values = {1};
  const std::string path = Path(GetParam());
  for (const bool overwrite : {false, true}) {
    TraceWriter writer(path, {{"round", overwrite ? 2 : 1}}, TraceWriter::Mode::kFull, overwrite);
    writer.Record(0, overwrite ? "new" : "old", "", View(DType::kF32, {1}, values));
    writer.Close();
  }
  const Trace trace = OpenTrace(path);
  ASSERT_EQ(trace.entries.size(), 1u);
  EXPECT_EQ(trace.entries[0].name, "new");
  EXPECT_THAT(MessageOf<UsageError>([&] { TraceWriter(path, Json::object()); }),
              HasSubstr("a trace exists there already"));
}

TEST_P(TraceWriterTest, WhatIsNoTraceOfOursIsNeverTouched) {
  const std::string path = Path(GetParam());
  const std::array<float, 1> weight = {7};
  if (fs::path(path).extension().empty()) {
    fs::create_directories(path);
    std::ofstream(path + "/thesis.txt") << "precious";
  } else {
    WriteSafetensors(path,
                     std::vector<TensorView>{{"lm_head.weight", DType::kF32, {1}, std::as_bytes(std::span(weight))}});
  }
  EXPECT_THAT(MessageOf<UsageError>([&] { TraceWriter(path, Json::object(), TraceWriter::Mode::kFull, true); }),
              HasSubstr("is no trace"));
  if (fs::path(path).extension().empty()) {
    EXPECT_EQ(ReadTextFile(path + "/thesis.txt"), "precious");
  } else {
    EXPECT_EQ(DecodeAll(*OpenTensorFile(path).Find("lm_head.weight")), std::vector<double>{7});
  }
}

TEST_F(TraceWriterTest, OverwritingLeavesForeignFilesInTheDirectory) {
  const std::string path = Path("trace");
  TraceWriter(path, Json::object()).Close();
  std::ofstream(path + "/notes.txt") << "mine";
  std::ofstream(path + "/tensors-00000.safetensors") << "an old one";
  TraceWriter(path, Json::object(), TraceWriter::Mode::kFull, true).Close();
  EXPECT_EQ(ReadTextFile(path + "/notes.txt"), "mine");
  EXPECT_FALSE(fs::exists(path + "/tensors-00000.safetensors"));
}

TEST_F(TraceWriterTest, RefusesPathsThatCannotBe) {
  EXPECT_THROW(TraceWriter("/proc/nonexistent/trace", Json::object()), UsageError);
  EXPECT_THROW(TraceWriter("/proc/nonexistent/trace.safetensors", Json::object()), UsageError);
  std::ofstream(Path("file")) << "x";
  EXPECT_THAT(MessageOf<UsageError>([&] { TraceWriter(Path("file"), Json::object()); }), HasSubstr("is no directory"));
  EXPECT_THAT(
      MessageOf<UsageError>([&] { TraceWriter(Path("d.safetensors"), Json::object(), TraceWriter::Mode::kDigest); }),
      HasSubstr("has to be a directory"));
}

TEST_F(TraceWriterTest, DigestsKeepNoValues) {
  const std::array<float, 2> values = {3, -4};
  for (const auto mode : {TraceWriter::Mode::kDigest, TraceWriter::Mode::kStats}) {
    const std::string path = Path("digest");
    TraceWriter writer(path, Json::object(), mode, true);
    writer.Record(0, "embed", "embed", View(DType::kF32, {2}, values));
    writer.Close();
    const Trace trace = OpenTrace(path);
    ASSERT_EQ(trace.entries.size(), 1u);
    EXPECT_FALSE(trace.entries[0].has_data());
    EXPECT_EQ(trace.entries[0].tensor.shape, Shape{2});
    EXPECT_EQ(trace.entries[0].stats["max"], 3.0);
    EXPECT_THAT(trace.entries[0].hash, HasSubstr("xxh3:"));
    EXPECT_FALSE(fs::exists(path + "/tensors-00000.safetensors"));
  }
}

TEST_F(TraceWriterTest, TheHeaderHasFormatAndStatusWhateverTheCallerSays) {
  const std::string path = Path("trace");
  TraceWriter writer(path, {{"format", "other/9"}, {"status", "complete"}});
  EXPECT_EQ(Json::parse(ReadTextFile(path + "/trace.json")).dump(), R"({"format":"paritrace/1","status":"open"})");
  writer.Close();
  EXPECT_EQ(Json::parse(ReadTextFile(path + "/trace.json"))["status"], "complete");
  EXPECT_THROW(writer.Record(0, "x", "", View(DType::kF32, {0}, {})), InternalError);
}

// safetensors has no block types; nothing may be half written then.
TEST_F(TraceWriterTest, BlockTypesAreRefusedAndLeaveNoTrack) {
  const std::array<std::byte, 34> block{};
  TraceWriter writer(Path("trace"), Json::object());
  EXPECT_THROW(writer.Record(0, "w", "", {"", DType::kQ8_0, {32}, block}), UsageError);
  writer.Close();
  EXPECT_TRUE(OpenTrace(Path("trace")).entries.empty());
}

TEST_F(TraceWriterTest, NamesThatAreNoUtf8AreReplacedEverywhereAlike) {
  const std::array<float, 1> values = {1};
  TraceWriter writer(Path("trace"), Json::object());
  writer.Record(0, "a\xff", "", View(DType::kF32, {1}, values));
  writer.Record(0, "a\xfe", "", View(DType::kF32, {1}, values));
  writer.Close();
  const Trace trace = OpenTrace(Path("trace"));
  ASSERT_EQ(trace.entries.size(), 2u);
  EXPECT_EQ(trace.entries[0].name, "a\xef\xbf\xbd");
}

TEST_F(TraceWriterTest, ANewTensorFileBeginsWhenTheHeaderIsFull) {
  const std::array<float, 1> values = {1};
  TraceWriter writer(Path("trace"), Json::object());
  for (int i = 0; i < 100; ++i)
    writer.Record(0, fmt::format("{}{}", std::string(2000, 'n'), i), "", View(DType::kF32, {1}, values));
  writer.Record(0, std::string(200'000, 'n'), "", View(DType::kF32, {1}, values));  // longer than a whole header's room
  writer.Close();
  EXPECT_TRUE(fs::exists(Path("trace/tensors-00003.safetensors")));
  const Trace trace = OpenTrace(Path("trace"));
  ASSERT_EQ(trace.entries.size(), 101u);
  for (const TraceEntry& entry : trace.entries) EXPECT_TRUE(entry.has_data());
}

// What a module hands on is what the next one is given: two names, one copy on the disk.
TEST_F(TraceWriterTest, TheSameValuesAreStoredOnceUnderTheirFirstKey) {
  constexpr std::int64_t kCount = 1 << 16;
  std::vector<float> values(kCount), others(kCount);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(i % 1000);
    others[i] = values[i] - 1;
  }
  others[5] = -1e31f;  // masked at scores, and nowhere else
  const std::string path = Path("trace");
  TraceWriter writer(path, Json::object());
  writer.Record(0, "act", "", View(DType::kF32, {kCount}, values));
  writer.Record(0, "other", "", View(DType::kF32, {kCount}, others));
  writer.Record(0, "down:in", "layers.0.mlp.act", View(DType::kF32, {kCount}, values));
  writer.Record(0, "scores", "layers.0.attn.scores", View(DType::kF32, {kCount}, others));
  writer.Record(1, "act", "", View(DType::kF32, {2, kCount / 2}, values));  // another shape is another tensor
  writer.Record(1, "bits", "", View(DType::kI32, {kCount}, values));
  writer.Close();
  const Trace trace = OpenTrace(path);
  ASSERT_EQ(trace.entries.size(), 6u);
  for (const TraceEntry& entry : trace.entries) {
    EXPECT_EQ(entry.hash, HashBytes(entry.tensor.bytes)) << entry.name;
    EXPECT_EQ(entry.stats.dump(), TensorStats(entry.tensor, entry.site).dump()) << entry.name;
  }
  EXPECT_EQ(trace.entries[0].tensor.bytes.data(), trace.entries[2].tensor.bytes.data());
  EXPECT_EQ(trace.entries[2].site, "layers.0.mlp.act");
  EXPECT_EQ(trace.entries[3].stats["masked"], 1);
  EXPECT_FALSE(trace.entries[1].stats.contains("masked"));
  EXPECT_EQ(TryReadSafetensors(MapFile(path + "/tensors-00000.safetensors"))->tensors.size(), 4u);
}

TEST_F(TraceWriterTest, DigestsOfTheSameValuesAreTheSame) {
  std::vector<float> values(1 << 16);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i));
  values[9] = -1e31f;
  const std::string path = Path("digest");
  TraceWriter writer(path, Json::object(), TraceWriter::Mode::kDigest);
  for (const char* site : {"", "layers.0.in", "layers.0.attn.scores"})
    writer.Record(0, "x", site, View(DType::kF32, {64, 1024}, values));
  writer.Close();
  const Trace trace = OpenTrace(path);
  ASSERT_EQ(trace.entries.size(), 3u);
  EXPECT_EQ(trace.entries[0].stats, trace.entries[1].stats);
  EXPECT_EQ(trace.entries[0].sketch, trace.entries[1].sketch);
  EXPECT_NE(trace.entries[0].sketch, trace.entries[2].sketch);
  EXPECT_EQ(trace.entries[2].stats["masked"], 1);
}

TEST_F(TraceWriterTest, ASingleFileGrowsBeyondItsFirstHeader) {
  const std::array<float, 1> values = {1};
  const std::string path = Path("trace.safetensors");
  TraceWriter writer(path, Json::object());
  for (int i = 0; i < 100; ++i)
    writer.Record(0, fmt::format("{}{}", std::string(2000, 'n'), i), "", View(DType::kF32, {1}, values));
  writer.UpdateHeader({{"note", std::string(1'000'000, 'x')}});
  writer.Close();
  EXPECT_EQ(OpenTrace(path).entries.size(), 100u);
  EXPECT_EQ(std::distance(fs::directory_iterator(root_), fs::directory_iterator()), 1) << "no temporary file is left";
}

// A mask is no value: an rms of 1e38 would hide the scores.
TEST(TensorStats, LeavesMaskedScoresOut) {
  const std::array<float, 5> values = {3, -4, -1e30f, -3.4e38f, -kInf};
  const TensorView tensor{"t", DType::kF32, {1, 1, 5}, std::as_bytes(std::span(values))};
  EXPECT_EQ(TensorStats(tensor, "layers.0.attn.scores").dump(),
            R"({"min":-4.0,"max":3.0,"mean":-0.5,"rms":3.5355339059327378,"nan":0,"inf":0,"masked":3})");
  EXPECT_EQ(TensorStats(tensor, "layers.0.attn.probs")["inf"], 1);
}

struct StatsCase {
  const char* name;
  std::vector<float> values;
  const char* json;
};
class TensorStatsTest : public ::testing::TestWithParam<StatsCase> {};
TEST_P(TensorStatsTest, CountsNonFiniteValuesApart) {
  const auto& values = GetParam().values;
  EXPECT_EQ(
      TensorStats({"t", DType::kF32, {static_cast<std::int64_t>(values.size())}, std::as_bytes(std::span(values))})
          .dump(),
      GetParam().json);
}
INSTANTIATE_TEST_SUITE_P(
    Table, TensorStatsTest,
    ::testing::Values(
        StatsCase{"AllNaN", {kNaN, kNaN}, R"({"min":null,"max":null,"mean":null,"rms":null,"nan":2,"inf":0})"},
        StatsCase{"Infinities", {kInf, -kInf, 2}, R"({"min":2.0,"max":2.0,"mean":2.0,"rms":2.0,"nan":0,"inf":2})"},
        StatsCase{"Empty", {}, R"({"min":null,"max":null,"mean":null,"rms":null,"nan":0,"inf":0})"},
        StatsCase{
            "Plain", {3, -4, 0, 5}, R"({"min":-4.0,"max":5.0,"mean":1.0,"rms":3.5355339059327378,"nan":0,"inf":0})"}),
    [](const auto& row) { return row.param.name; });

}  // namespace
}  // namespace paritrace
