// The C functions that engines call, as an engine sees them: through the installed header and the shared library, with the
// environment as the switch. What was written is read back with the library's reader.
#include "paritrace/capture.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/decode.h"
#include "core/hash.h"
#include "formats/safetensors.h"
#include "trace/repair.h"
#include "trace/trace.h"

namespace paritrace {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CaptureTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / fmt::format("paritrace-capture-{}-{}", ::getpid(),
                                                    ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(root_);
    fs::create_directories(root_);
    for (const char* name : {"MODE", "SITES", "STEPS", "OVERWRITE", "BUFFER_MB", "RANK"})
      ::unsetenv(Name(name).c_str());
    for (const char* name : {"RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"}) ::unsetenv(name);
    Set("DIR", Path());
  }
  void TearDown() override {
    paritrace_close();
    fs::remove_all(root_);
  }
  static std::string Name(const std::string& name) { return "PARITRACE_" + name; }
  static void Set(const std::string& name, const std::string& value) { ::setenv(Name(name).c_str(), value.c_str(), 1); }
  [[nodiscard]] std::string Path(const std::string& name = "trace") const { return (root_ / name).string(); }
  [[nodiscard]] std::vector<std::string> Names(const std::string& name = "trace") const {
    std::vector<std::string> names;
    for (const TraceEntry& entry : OpenTrace(Path(name)).entries)
      names.push_back(fmt::format("{}/{}", entry.step, entry.name));
    return names;
  }
  static int RecordOne(const char* site, int layer = -1, float value = 1) {
    const std::int64_t shape[] = {1};
    return paritrace_record(site, layer, &value, PARITRACE_F32, 1, shape, nullptr);
  }

  fs::path root_;
};

TEST_F(CaptureTest, WhatIsRecordedIsRead) {
  const std::array<float, 6> q = {1, 2, 3, 4, 5, 6};
  const std::int64_t shape[] = {2, 3};
  const std::int32_t tokens[] = {7, 8}, more[] = {9};
  const paritrace_info info = {.size = sizeof info,
                               .directory = nullptr,
                               .engine = "toy",
                               .engine_version = "1.2",
                               .model = "m",
                               .architecture = "llama",
                               .model_file = nullptr,
                               .arithmetic = "f32"};
  ASSERT_EQ(paritrace_open(&info), PARITRACE_OK) << paritrace_error();
  EXPECT_TRUE(PARITRACE_ON());
  EXPECT_EQ(paritrace_step(0, tokens, 2), PARITRACE_OK);
  EXPECT_EQ(paritrace_record("attn.q", 3, q.data(), PARITRACE_F32, 2, shape, nullptr), PARITRACE_OK);
  EXPECT_EQ(paritrace_record("my.scratch", -1, q.data(), PARITRACE_F32, 2, shape, nullptr), PARITRACE_OK);
  EXPECT_EQ(paritrace_record("attn.q", 3, q.data(), PARITRACE_F32, 2, shape, nullptr), PARITRACE_OK);
  EXPECT_EQ(paritrace_step(2, more, 1), PARITRACE_OK);
  EXPECT_EQ(paritrace_record("layers.3.attn.q", -1, q.data(), PARITRACE_I32, 0, nullptr, nullptr), PARITRACE_OK);
  EXPECT_EQ(paritrace_flush(), PARITRACE_OK);
  EXPECT_FALSE(OpenTrace(Path()).header.complete);
  EXPECT_EQ(OpenTrace(Path()).entries.size(), 4u) << "a trace that is still being written can be read";
  EXPECT_EQ(paritrace_close(), PARITRACE_OK);
  EXPECT_FALSE(PARITRACE_ON());

  const Trace trace = OpenTrace(Path());
  EXPECT_TRUE(trace.header.complete);
  EXPECT_EQ(trace.header.engine_name, "toy");
  EXPECT_EQ(trace.header.arithmetic, "f32");
  EXPECT_EQ(trace.header.tokens, (std::vector<std::vector<std::int64_t>>{{7, 8, 9}}));
  ASSERT_EQ(trace.header.steps.size(), 2u);
  EXPECT_EQ(trace.header.steps[1].start, 2);
  EXPECT_THAT(Names(), ElementsAre("0/layers.3.attn.q", "0/my.scratch", "0/layers.3.attn.q#2", "1/layers.3.attn.q"));
  ASSERT_NE(trace.Find(0, "layers.3.attn.q"), nullptr);
  EXPECT_EQ(DecodeAll(trace.Find(0, "layers.3.attn.q")->tensor), (std::vector<double>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(trace.Find(1, "layers.3.attn.q")->tensor.shape, Shape{});
  EXPECT_EQ(trace.entries[2].site, "") << "the site belongs to the first";
}

TEST_F(CaptureTest, OffRecordsNothingAndIsNoError) {
  ::unsetenv("PARITRACE_DIR");
  EXPECT_EQ(paritrace_open(nullptr), PARITRACE_OK);
  EXPECT_FALSE(PARITRACE_ON());
  int computed = 0;
  EXPECT_EQ(paritrace_record("x", ++computed, nullptr, 99, -5, nullptr, nullptr), PARITRACE_OK);
  EXPECT_EQ(computed, 0) << "arguments are not even computed";
  EXPECT_EQ((paritrace_record)("x", 0, nullptr, 99, -5, nullptr, nullptr), PARITRACE_OK);
  EXPECT_EQ(paritrace_step(0, nullptr, 3), PARITRACE_OK);
  EXPECT_EQ(paritrace_flush(), PARITRACE_OK);
  EXPECT_EQ(paritrace_close(), PARITRACE_OK);
  EXPECT_TRUE(fs::is_empty(root_));
}

TEST_F(CaptureTest, TheProgramMayNameADirectoryAndTheEnvironmentWins) {
  ::unsetenv("PARITRACE_DIR");
  const std::string mine = Path("mine");
  paritrace_info info{};
  info.size = sizeof info;
  info.directory = mine.c_str();
  EXPECT_EQ(paritrace_open(&info), PARITRACE_OK);
  EXPECT_EQ(paritrace_close(), PARITRACE_OK);
  Set("DIR", Path("theirs"));
  EXPECT_EQ(paritrace_open(&info), PARITRACE_OK);
  EXPECT_EQ(paritrace_close(), PARITRACE_OK);
  EXPECT_TRUE(fs::exists(Path("mine/trace.json")) && fs::exists(Path("theirs/trace.json")));
}

// A program built against an older, shorter paritrace_info.
TEST_F(CaptureTest, AShorterInfoIsRead) {
  paritrace_info info{};
  info.size = offsetof(paritrace_info, engine_version);
  info.engine = "old";
  info.engine_version = reinterpret_cast<const char*>(1);  // not its to read
  EXPECT_EQ(paritrace_open(&info), PARITRACE_OK);
  EXPECT_EQ(paritrace_close(), PARITRACE_OK);
  EXPECT_EQ(OpenTrace(Path()).header.engine_name, "old");
}

TEST_F(CaptureTest, StridesAreCopiedAsTheyAre) {
  std::array<std::int16_t, 24> values{};
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::int16_t>(i);
  struct Case {
    const char* name;
    std::vector<std::int64_t> shape, strides;
    std::size_t first;
    std::vector<double> expected;
  };
  const std::vector<Case> cases = {
      {"transposed", {3, 2}, {1, 3}, 0, {0, 3, 1, 4, 2, 5}},
      {"a column", {3}, {4}, 1, {1, 5, 9}},
      {"broadcast", {2, 3}, {0, 1}, 4, {4, 5, 6, 4, 5, 6}},
      {"backwards", {4}, {-2}, 6, {6, 4, 2, 0}},
      {"axes that join", {2, 2, 3}, {6, 3, 1}, 0, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}},
      {"padded rows", {2, 3}, {5, 1}, 0, {0, 1, 2, 5, 6, 7}},
      {"heads beside tokens", {2, 2, 2}, {2, 8, 1}, 0, {0, 1, 8, 9, 2, 3, 10, 11}},
      {"axes of one", {1, 3, 1}, {999, 2, -999}, 0, {0, 2, 4}},
      {"nothing", {0, 3}, {3, 1}, 0, {}},
      {"a scalar", {}, {}, 5, {5}},
  };
  ASSERT_EQ(paritrace_open(nullptr), PARITRACE_OK);
  for (const Case& row : cases) {
    EXPECT_EQ(paritrace_record(row.name, -1, values.data() + row.first, PARITRACE_I16,
                               static_cast<int>(row.shape.size()), row.shape.data(), row.strides.data()),
              PARITRACE_OK);
  }
  ASSERT_EQ(paritrace_close(), PARITRACE_OK);
  const Trace trace = OpenTrace(Path());
  ASSERT_EQ(trace.entries.size(), cases.size());
  for (std::size_t i = 0; i < cases.size(); ++i) {
    EXPECT_EQ(DecodeAll(trace.entries[i].tensor), cases[i].expected) << cases[i].name;
  }
}

TEST_F(CaptureTest, SitesAndStepsAreChosen) {
  Set("SITES", "attn.q*, layers.1.mlp.*,logits");
  Set("STEPS", "0,2-3,5-");
  ASSERT_EQ(paritrace_open(nullptr), PARITRACE_OK) << paritrace_error();
  for (int step = 0; step < 7; ++step) {
    paritrace_step(step, nullptr, 1);
    EXPECT_EQ(PARITRACE_ON(), step != 1 && step != 4) << step;
    for (const int layer : {0, 1}) {
      for (const char* site : {"attn.q", "attn.q_rope", "attn.k", "mlp.up"}) RecordOne(site, layer);
    }
    RecordOne("logits");
  }
  paritrace_close();
  const auto names = Names();
  EXPECT_EQ(names.size(), 5u * 6u);
  EXPECT_THAT(std::vector<std::string>(names.begin() + 6, names.begin() + 12),
              ElementsAre("2/layers.0.attn.q", "2/layers.0.attn.q_rope", "2/layers.1.attn.q", "2/layers.1.attn.q_rope",
                          "2/layers.1.mlp.up", "2/logits"));
}

struct BadVariable {
  const char* name;
  const char* value;
  const char* message;
};
TEST_F(CaptureTest, BadVariablesAreRefusedByName) {
  for (const BadVariable& row :
       {BadVariable{"MODE", "Full", "PARITRACE_MODE: expected full, digest or stats"},
        BadVariable{"STEPS", "3-1", "PARITRACE_STEPS: expected steps such as"},
        BadVariable{"STEPS", "-2", "PARITRACE_STEPS"}, BadVariable{"STEPS", "0;1", "\"0;1\""},
        BadVariable{"STEPS", "99999999999", "PARITRACE_STEPS"},
        BadVariable{"BUFFER_MB", "1G", "PARITRACE_BUFFER_MB: expected a number"},
        BadVariable{"RANK", "-1", "PARITRACE_RANK"}, BadVariable{"OVERWRITE", "yes", "OVERWRITE"}}) {
    Set(row.name, row.value);
    EXPECT_EQ(paritrace_open(nullptr), PARITRACE_ERROR_USAGE) << row.name;
    EXPECT_THAT(paritrace_error(), HasSubstr(row.message));
    EXPECT_FALSE(PARITRACE_ON());
    ::unsetenv(Name(row.name).c_str());
  }
  EXPECT_FALSE(fs::exists(Path()));
}

TEST_F(CaptureTest, BadArgumentsAreRefusedAndTheTraceGoesOn) {
  ASSERT_EQ(paritrace_open(nullptr), PARITRACE_OK);
  EXPECT_EQ(paritrace_open(nullptr), PARITRACE_ERROR_STATE);
  const float value = 1;
  const std::int64_t one[] = {1}, negative[] = {-1}, huge[] = {std::int64_t{1} << 40, std::int64_t{1} << 40};
  const auto record = [&](const char* site, int layer, const void* data, int dtype, int axes,
                          const std::int64_t* shape) {
    return paritrace_record(site, layer, data, dtype, axes, shape, nullptr);
  };
  EXPECT_EQ(record(nullptr, 0, &value, PARITRACE_F32, 1, one), PARITRACE_ERROR_USAGE);
  EXPECT_EQ(record("", 0, &value, PARITRACE_F32, 1, one), PARITRACE_ERROR_USAGE);
  EXPECT_EQ(record("x", -2, &value, PARITRACE_F32, 1, one), PARITRACE_ERROR_USAGE);
  EXPECT_EQ(record("x", 0, nullptr, PARITRACE_F32, 1, one), PARITRACE_ERROR_USAGE);
  EXPECT_EQ(record("x", 0, &value, 15, 1, one), PARITRACE_ERROR_USAGE);
  EXPECT_EQ(record("x", 0, &value, -1, 1, one), PARITRACE_ERROR_USAGE);
  EXPECT_EQ(record("x", 0, &value, PARITRACE_F32, 17, one), PARITRACE_ERROR_USAGE);
  EXPECT_EQ(record("x", 0, &value, PARITRACE_F32, 1, nullptr), PARITRACE_ERROR_USAGE);
  EXPECT_EQ(record("x", 0, &value, PARITRACE_F32, 1, negative), PARITRACE_ERROR_USAGE);
  EXPECT_EQ(record("x", 0, &value, PARITRACE_F32, 2, huge), PARITRACE_ERROR_USAGE);
  EXPECT_THAT(paritrace_error(), HasSubstr("a shape that fits in memory, found [1099511627776, 1099511627776]"));
  EXPECT_EQ(paritrace_step(-1, nullptr, 0), PARITRACE_ERROR_USAGE);
  EXPECT_EQ(RecordOne("x", 0), PARITRACE_OK);
  EXPECT_EQ(paritrace_close(), PARITRACE_OK);
  EXPECT_THAT(Names(), ElementsAre("0/layers.0.x"));
}

TEST_F(CaptureTest, ASecondTraceGoesBesideTheFirst) {
  for (const float value : {1.0f, 2.0f, 3.0f}) {
    ASSERT_EQ(paritrace_open(nullptr), PARITRACE_OK) << paritrace_error();
    RecordOne("x", -1, value);
    ASSERT_EQ(paritrace_close(), PARITRACE_OK);
  }
  Set("OVERWRITE", "1");
  ASSERT_EQ(paritrace_open(nullptr), PARITRACE_OK) << paritrace_error();
  RecordOne("x", -1, 4);
  ASSERT_EQ(paritrace_close(), PARITRACE_OK);
  const auto value = [&](const char* name) { return DecodeAll(OpenTrace(Path(name)).entries.at(0).tensor).at(0); };
  EXPECT_EQ(value("trace"), 4);
  EXPECT_EQ(value("trace/rank-1"), 2);
  EXPECT_EQ(value("trace/rank-2"), 3);
}

// Rank 1 may be there before rank 0.
TEST_F(CaptureTest, RanksHaveTheirOwnFiles) {
  std::array<pid_t, 3> children{};
  for (const int rank : {2, 1, 0}) {
    const pid_t child = ::fork();
    if (child == 0) {
      Set("RANK", std::to_string(rank));
      bool good = paritrace_open(nullptr) == PARITRACE_OK;
      for (int i = 0; i < 50; ++i) good = RecordOne("x", i, static_cast<float>(rank)) == PARITRACE_OK && good;
      ::_exit(paritrace_close() == PARITRACE_OK && good ? 0 : 1);
    }
    children[static_cast<std::size_t>(rank)] = child;
  }
  for (const pid_t child : children) {
    int status = -1;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  for (const int rank : {0, 1, 2}) {
    const Trace trace = OpenTrace(Path(rank == 0 ? "trace" : fmt::format("trace/rank-{}", rank)));
    EXPECT_TRUE(trace.header.complete);
    EXPECT_EQ(trace.header.raw["process"]["rank"], rank);
    ASSERT_EQ(trace.entries.size(), 50u);
    for (const TraceEntry& entry : trace.entries) EXPECT_EQ(DecodeAll(entry.tensor).at(0), rank);
  }
}

class CaptureModeTest : public CaptureTest, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Modes, CaptureModeTest, ::testing::Values("full", "digest", "stats"),
                         [](const auto& row) { return row.param; });

// Each thread writes its own number into memory that it changes right after the call: what stands in the trace is from before.
TEST_P(CaptureModeTest, ThreadsRecordAtOnceAndMemoryIsFreeAfterTheCall) {
  constexpr int kThreads = 8, kEach = 60;
  Set("MODE", GetParam());
  Set("BUFFER_MB", "1");  // smaller than what they record: they wait for the disk, and for each other
  ASSERT_EQ(paritrace_open(nullptr), PARITRACE_OK) << paritrace_error();
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([t, &failures] {
      std::vector<float> values;
      for (int i = 0; i < kEach; ++i) {
        values.assign(static_cast<std::size_t>(1 + i * 300), static_cast<float>(t * kEach + i));
        const std::int64_t shape[] = {static_cast<std::int64_t>(values.size())};
        if (i == kEach / 2) values.resize(400'000, values[0]);  // larger than the buffer
        const std::int64_t large[] = {static_cast<std::int64_t>(values.size())};
        failures += paritrace_record(fmt::format("t{}", t).c_str(), i, values.data(), PARITRACE_F32, 1,
                                     i == kEach / 2 ? large : shape, nullptr) != PARITRACE_OK;
        std::fill(values.begin(), values.end(), -1.0f);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_EQ(paritrace_close(), PARITRACE_OK) << paritrace_error();
  EXPECT_EQ(failures, 0);
  const Trace trace = OpenTrace(Path());
  ASSERT_EQ(trace.entries.size(), static_cast<std::size_t>(kThreads * kEach));
  std::vector<int> next(kThreads, 0);
  for (std::size_t i = 0; i < trace.entries.size(); ++i) {
    const TraceEntry& entry = trace.entries[i];
    ASSERT_EQ(entry.seq, static_cast<std::int64_t>(i));
    const auto id = static_cast<int>(std::lround(entry.stats["mean"].get<double>()));
    ASSERT_EQ(entry.name, fmt::format("layers.{}.t{}", id % kEach, id / kEach));
    EXPECT_EQ(id % kEach, next[static_cast<std::size_t>(id / kEach)]++) << "a thread's tensors keep their order";
    EXPECT_EQ(entry.stats["min"], entry.stats["max"]);
    EXPECT_EQ(entry.has_data(), std::string(GetParam()) == "full");
    if (entry.has_data()) {
      ASSERT_EQ(entry.hash, HashBytes(entry.tensor.bytes));
    }
  }
}

// A file size limit is a full disk in miniature: first a short write, then an error, and a signal that would end the process.
TEST_F(CaptureTest, AFullDiskIsACodeAndWhatWasWrittenStays) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (paritrace_open(nullptr) != PARITRACE_OK) ::_exit(10);
    const rlimit limit = {3'000'000, 3'000'000};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(11);
    std::vector<float> values(100'000, 1.5f);
    const std::int64_t shape[] = {100'000};
    int failed = 0;
    for (int i = 0; i < 20; ++i) {
      values[0] = static_cast<float>(i);  // the same values would be stored once
      const int code = paritrace_record("x", i, values.data(), PARITRACE_F32, 1, shape, nullptr);
      if (code != PARITRACE_OK && code != PARITRACE_ERROR_IO) ::_exit(12);
      failed += code == PARITRACE_ERROR_IO;
      paritrace_flush();
    }
    if (failed == 0) ::_exit(13);
    if (std::string(paritrace_error()).find("File too large") == std::string::npos) ::_exit(14);
    if (paritrace_close() != PARITRACE_ERROR_IO) ::_exit(15);
    ::_exit(0);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status)) << "killed by signal " << WTERMSIG(status);
  ASSERT_EQ(WEXITSTATUS(status), 0);
  const Trace trace = OpenTrace(Path());
  EXPECT_FALSE(trace.header.complete);
  ASSERT_EQ(trace.entries.size(), 7u) << "2.8 of 3 MB, the header's place apart";
  for (const TraceEntry& entry : trace.entries) EXPECT_EQ(entry.hash, HashBytes(entry.tensor.bytes));
  const Repair repair = RepairTrace(Path());
  EXPECT_EQ(repair.lines, 7);
  EXPECT_TRUE(repair.mistakes.empty());
  EXPECT_EQ(TryReadSafetensors(MapFile(Path("trace/tensors-00000.safetensors")))->tensors.size(), 7u);
}

TEST_F(CaptureTest, AFullDeviceAtTheBeginningIsAnErrorOfOpen) {
  Set("DIR", "/dev/full/trace");
  EXPECT_EQ(paritrace_open(nullptr), PARITRACE_ERROR_USAGE);
  EXPECT_THAT(paritrace_error(), HasSubstr("/dev/full/trace"));
  Set("DIR", "/proc/none/trace");
  EXPECT_EQ(paritrace_open(nullptr), PARITRACE_ERROR_USAGE);
  EXPECT_FALSE(PARITRACE_ON());
}

// Signals without SA_RESTART interrupt calls; none may cost a tensor or reach the threads that write.
std::atomic<int> signals_seen{0};
TEST_F(CaptureTest, InterruptedCallsAreTakenUpAgain) {
  struct sigaction action {};
  action.sa_handler = [](int) { ++signals_seen; };
  struct sigaction before {};
  ::sigaction(SIGALRM, &action, &before);
  const itimerval often = {{0, 200}, {0, 200}};
  ::setitimer(ITIMER_REAL, &often, nullptr);
  ASSERT_EQ(paritrace_open(nullptr), PARITRACE_OK);
  const std::vector<float> values(50'000, 2);
  const std::int64_t shape[] = {50'000};
  int failures = 0;
  for (int i = 0; i < 200; ++i) {
    failures += paritrace_record("x", i, values.data(), PARITRACE_F32, 1, shape, nullptr) != PARITRACE_OK;
    if (i % 20 == 0) failures += paritrace_step(i, nullptr, 0) != PARITRACE_OK;
  }
  EXPECT_EQ(paritrace_close(), PARITRACE_OK);
  const itimerval never{};
  ::setitimer(ITIMER_REAL, &never, nullptr);
  ::sigaction(SIGALRM, &before, nullptr);
  EXPECT_GT(signals_seen, 0);
  EXPECT_EQ(failures, 0);
  const Trace trace = OpenTrace(Path());
  ASSERT_EQ(trace.entries.size(), 200u);
  for (const TraceEntry& entry : trace.entries) EXPECT_EQ(entry.hash, HashBytes(entry.tensor.bytes));
}

TEST_F(CaptureTest, AForkedChildLeavesTheTraceToItsParent) {
  ASSERT_EQ(paritrace_open(nullptr), PARITRACE_OK);
  RecordOne("before");
  const pid_t child = ::fork();
  if (child == 0)
    ::_exit(!PARITRACE_ON() && RecordOne("child") == PARITRACE_OK && paritrace_close() == PARITRACE_OK ? 0 : 1);
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  RecordOne("after");
  EXPECT_EQ(paritrace_close(), PARITRACE_OK);
  EXPECT_THAT(Names(), ElementsAre("0/before", "0/after"));
}

TEST_F(CaptureTest, AnEngineThatForgetsToCloseLosesNothing) {
  const pid_t child = ::fork();
  if (child == 0) {
    paritrace_open(nullptr);
    for (int i = 0; i < 100; ++i) RecordOne("x", i);
    std::exit(0);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_FALSE(OpenTrace(Path()).header.complete);
  EXPECT_EQ(OpenTrace(Path()).entries.size(), 100u);
}

}  // namespace
}  // namespace paritrace
