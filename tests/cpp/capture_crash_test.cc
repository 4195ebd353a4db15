// Kills an engine with 8 recording threads, at random moments, a thousand times: every tensor whose index line is complete
// must be there, with the values that were recorded; and after `paritrace repair` the strict reader, which takes what the
// public safetensors package takes, must open every file. tests/python/test_capture_engines.py asks that package itself.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "core/file.h"
#include "core/hash.h"
#include "formats/safetensors.h"
#include "paritrace/capture.h"
#include "trace/repair.h"
#include "trace/trace.h"

namespace paritrace {
namespace {

namespace fs = std::filesystem;

constexpr int kThreads = 8;
#if defined(__SANITIZE_THREAD__)  // ten times slower: else most kills come before the first tensor
constexpr int kKills = 200, kLongestMicroseconds = 200'000;
#else
constexpr int kKills = 1000, kLongestMicroseconds = 20'000;
#endif

// The values follow from the name, so that the reader can tell them without the writer.
std::vector<std::uint32_t> ValuesOf(int thread, int number) {
  std::minstd_rand random(static_cast<unsigned>(thread * 100'003 + number + 1));
  std::vector<std::uint32_t> values(1 + random() % (number % 50 == 0 ? 40'000 : 1'500));
  for (std::uint32_t& value : values) value = static_cast<std::uint32_t>(random());
  return values;
}

[[noreturn]] void RecordUntilKilled() {
  if (paritrace_open(nullptr) != PARITRACE_OK) std::abort();
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([t] {
      const std::string name = fmt::format("t{}", t);
      for (int i = 0;; ++i) {
        const auto values = ValuesOf(t, i);
        const std::int64_t shape[] = {static_cast<std::int64_t>(values.size())};
        if (paritrace_record(name.c_str(), i, values.data(), PARITRACE_U32, 1, shape, nullptr) != PARITRACE_OK)
          std::abort();
      }
    });
  }
  for (int step = 1;; ++step) {  // the header is rewritten, too
    const std::int32_t tokens[] = {step};
    (void)paritrace_step(step, tokens, 1);
    std::this_thread::sleep_for(std::chrono::microseconds(300));
  }
}

std::size_t WholeLines(const std::string& index) {
  std::ifstream file(index, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

void ExpectAllThere(const Trace& trace) {
  for (const TraceEntry& entry : trace.entries) {
    ASSERT_TRUE(entry.has_data()) << entry.name;
    ASSERT_EQ(entry.hash, HashBytes(entry.tensor.bytes)) << entry.name;
    int thread = -1, number = -1;  // layers.NUMBER.tTHREAD
    ASSERT_EQ(std::sscanf(entry.name.c_str(), "layers.%d.t%d", &number, &thread), 2) << entry.name;
    const std::vector<std::uint32_t> recorded = ValuesOf(thread, number);
    ASSERT_EQ(entry.hash, HashBytes(std::as_bytes(std::span(recorded)))) << entry.name;
  }
}

TEST(CaptureCrash, AThousandKillsLoseNoTensorWithACompleteLine) {
  const fs::path root = fs::temp_directory_path() / fmt::format("paritrace-kills-{}", ::getpid());
  const std::string path = (root / "trace").string();
  ::setenv("PARITRACE_DIR", path.c_str(), 1);
  ::setenv("PARITRACE_BUFFER_MB", "1", 1);
  std::mt19937 random(5);
  std::size_t before_the_trace = 0, tensors = 0, cut = 0;
  for (int kill = 0; kill < kKills; ++kill) {
    fs::remove_all(root);
    fs::create_directories(root);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) RecordUntilKilled();
    std::this_thread::sleep_for(std::chrono::microseconds(random() % kLongestMicroseconds));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        << "kill " << kill << " found an engine that had ended";
    if (!fs::exists(root / "trace" / "trace.json")) {
      ++before_the_trace;
      continue;
    }
    const std::size_t lines = WholeLines(path + "/index.jsonl");
    const Trace killed = OpenTrace(path);
    EXPECT_FALSE(killed.header.complete);
    ASSERT_EQ(killed.entries.size(), lines) << "kill " << kill;
    ASSERT_NO_FATAL_FAILURE(ExpectAllThere(killed)) << "kill " << kill;

    const Repair repair = RepairTrace(path);
    EXPECT_TRUE(repair.mistakes.empty()) << "kill " << kill << ": " << repair.mistakes[0];
    cut += repair.done.empty() ? 0 : 1;
    for (const auto& entry : fs::directory_iterator(path)) {
      if (entry.path().extension() == ".safetensors") {
        ASSERT_TRUE(TryReadSafetensors(MapFile(entry.path().string())));
      }
      EXPECT_NE(entry.path().extension(), ".tmp");
    }
    const Trace repaired = OpenTrace(path);
    ASSERT_EQ(repaired.entries.size(), lines) << "kill " << kill;
    ASSERT_NO_FATAL_FAILURE(ExpectAllThere(repaired)) << "kill " << kill;
    EXPECT_TRUE(RepairTrace(path).done.empty()) << "repairing twice changes nothing";
    tensors += lines;
  }
  fs::remove_all(root);
  RecordProperty("tensors", static_cast<int>(tensors));
  fmt::print("{} kills: {} before there was a trace, {} left something to repair; {} tensors checked\n", kKills,
             before_the_trace, cut, tensors);
  // Else the moments were badly chosen, and nothing was tested.
  EXPECT_LT(before_the_trace, kKills / 2u);
  EXPECT_GT(cut, kKills / 100u);
  EXPECT_GT(tensors, 1000u);
}

}  // namespace
}  // namespace paritrace
