// The queue where an engine lends its threads: values are written from where they are, before Record returns.
#include "trace/record_queue.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/hash.h"
#include "core/parallel.h"
#include "trace/trace.h"
#include "trace/trace_writer.h"

namespace paritrace {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kValues = 300'000;  // enough to be shared out

class RecordQueueTest : public testing::Test {
 protected:
  void SetUp() override { fs::remove_all(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  // team_calls: how often the engine's threads were asked.
  std::unique_ptr<RecordQueue> Queue(TraceWriter::Mode mode, std::atomic<int>* team_calls) const {
    auto queue = std::make_unique<RecordQueue>(
        std::make_unique<TraceWriter>(folder_.string(), nlohmann::ordered_json{{"engine", {{"name", "test"}}}}, mode));
    if (team_calls != nullptr) {
      queue->UseTeam([team_calls](void (*work)(void*), void* argument) {
        ++*team_calls;
        std::thread other(work, argument);
        work(argument);
        other.join();
      });
    }
    return queue;
  }

  fs::path folder_ = fs::temp_directory_path() / fmt::format("paritrace-queue-{}", ::getpid());
};

class RecordQueueModes : public RecordQueueTest, public testing::WithParamInterface<TraceWriter::Mode> {};

void RecordValues(RecordQueue& queue, const std::string& name, std::vector<float>& values) {
  queue.Record(0, name, "",
               {.data = reinterpret_cast<const std::byte*>(values.data()),
                .dtype = DType::kF32,
                .shape = {static_cast<std::int64_t>(values.size())},
                .strides = {}});
}

std::vector<float> Values(float first) {
  std::vector<float> values(kValues);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = first + static_cast<float>(i % 1013);
  return values;
}

// Every line of the index, but for what differs by time.
std::vector<std::string> Lines(const fs::path& folder) {
  std::vector<std::string> lines;
  const Trace trace = OpenTrace(folder.string());
  for (const TraceEntry& entry : trace.entries) {
    lines.push_back(fmt::format("{} {} {}", entry.name, entry.hash, entry.stats.dump()));
    if (entry.has_data()) {
      EXPECT_EQ(entry.hash, HashBytes(entry.tensor.bytes)) << entry.name;
    }
  }
  return lines;
}

TEST_P(RecordQueueModes, OnAnEnginesThreadsTheSameIsWrittenAsOnOurs) {
  std::vector<std::vector<std::string>> written;
  for (const bool lent : {false, true}) {
    std::atomic<int> team_calls{0};
    const auto queue = Queue(GetParam(), lent ? &team_calls : nullptr);
    std::vector<float> values = Values(1);
    RecordValues(*queue, "a", values);
    RecordValues(*queue, "again", values);  // the same memory and values
    values = Values(2);
    RecordValues(*queue, "b", values);  // perhaps the same memory, other values
    std::vector<float> few(10, 3.0f);
    RecordValues(*queue, "few", few);
    queue->Close();
    if (ThreadCount() > 1) {
      EXPECT_EQ(team_calls > 0, lent);
    }
    written.push_back(Lines(folder_));
    fs::remove_all(folder_);
  }
  ASSERT_EQ(written[0].size(), 4u);
  EXPECT_EQ(written[0], written[1]);
}

TEST_F(RecordQueueTest, ValuesOnAnEnginesThreadsAreThereWhenRecordReturns) {
  std::atomic<int> team_calls{0};
  const auto queue = Queue(TraceWriter::Mode::kFull, &team_calls);
  std::vector<float> values = Values(1);
  RecordValues(*queue, "a", values);
  const std::string hash = HashBytes(std::as_bytes(std::span(values)));
  values = Values(2);
  const Trace trace = OpenTrace(folder_.string());
  ASSERT_EQ(trace.entries.size(), 1u);
  EXPECT_EQ(HashBytes(trace.entries[0].tensor.bytes), hash);
}

// Another thread of the engine's has no team of its own; its tensors go the usual way, and all are there in order.
TEST_F(RecordQueueTest, OtherThreadsRecordBesideTheLentOnes) {
  std::atomic<int> team_calls{0};
  const auto queue = Queue(TraceWriter::Mode::kFull, &team_calls);
  std::thread other([&] {
    std::vector<float> values = Values(100);
    for (int i = 0; i < 20; ++i) RecordValues(*queue, fmt::format("other.{}", i), values);
  });
  std::vector<float> values = Values(200);
  for (int i = 0; i < 20; ++i) {
    values[0] = static_cast<float>(i);
    RecordValues(*queue, fmt::format("own.{}", i), values);
  }
  other.join();
  queue->Close();
  const Trace trace = OpenTrace(folder_.string());
  ASSERT_EQ(trace.entries.size(), 40u);
  int own = 0;
  for (const TraceEntry& entry : trace.entries) {
    EXPECT_EQ(entry.hash, HashBytes(entry.tensor.bytes)) << entry.name;
    if (entry.name.starts_with("own.")) {
      EXPECT_EQ(entry.name, fmt::format("own.{}", own++));
    }
  }
}

// The write happens on the engine's thread, which a signal would end with the whole process.
TEST_F(RecordQueueTest, AFullDiskIsAnErrorAndNoSignalOnAnEnginesThread) {
  const pid_t child = ::fork();
  if (child == 0) {
    std::atomic<int> team_calls{0};
    const auto queue = Queue(TraceWriter::Mode::kFull, &team_calls);
    const rlimit limit = {3'000'000, 3'000'000};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(10);
    for (int i = 0; i < 5; ++i) {
      std::vector<float> values = Values(static_cast<float>(i));
      try {
        RecordValues(*queue, fmt::format("t{}", i), values);
      } catch (const UsageError& error) {
        ::_exit(i == 2 && std::string(error.what()).find("File too large") != std::string::npos ? 0 : 11);
      }
    }
    ::_exit(12);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status)) << "killed by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(OpenTrace(folder_.string()).entries.size(), 2u);
}

INSTANTIATE_TEST_SUITE_P(All, RecordQueueModes,
                         testing::Values(TraceWriter::Mode::kFull, TraceWriter::Mode::kDigest,
                                         TraceWriter::Mode::kStats));

}  // namespace
}  // namespace paritrace
