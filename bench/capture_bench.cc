// What recording costs an engine, through the C functions: nanoseconds a call while off, and bytes a second while on, beside
// what `dd` does on the same disk at the same time.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "paritrace/capture.h"

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::int64_t kRows = 1024, kFeatures = 4096;  // 16 MiB a tensor in f32
constexpr int kLayers = 64;                             // 1 GiB a round

double SecondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// One call a turn, with what an engine would pass. The empty loop, which is what a call compiled out leaves, is taken off.
#pragma GCC push_options
#pragma GCC optimize("no-unroll-loops")
double NanosecondsOff(bool with_call) {
  constexpr int kCalls = 200'000'000;
  const float value = 1;
  const std::int64_t shape[] = {1};
  const auto start = Clock::now();
  for (int i = 0; i < kCalls; ++i) {
    if (with_call) (void)paritrace_record("attn.q", i, &value, PARITRACE_F32, 1, shape, nullptr);
    asm volatile("" : : "r"(i) : "memory");
  }
  return SecondsSince(start) / kCalls * 1e9;
}
#pragma GCC pop_options

double GigabytesOfDd(const std::string& file) {
  const std::string command =
      fmt::format("dd if=/dev/zero of={} bs=16M count={} conv=fdatasync 2>/dev/null", file, kLayers);
  const auto start = Clock::now();
  if (std::system(command.c_str()) != 0) return 0;
  const double rate = kLayers * 16.0 * 1024 * 1024 / SecondsSince(start) / 1e9;
  fs::remove(file);
  return rate;
}

// As dd's conv=fdatasync: what counts is on the disk at the end.
void SyncAll(const fs::path& directory) {
  const std::string command = fmt::format("sync -d {}/*", directory.string());
  if (std::system(command.c_str()) != 0) std::exit(3);
}

double GigabytesRecorded(const fs::path& directory, const char* mode, std::vector<float>& values) {
  ::setenv("PARITRACE_DIR", directory.c_str(), 1);
  ::setenv("PARITRACE_MODE", mode, 1);
  const std::int64_t shape[] = {kRows, kFeatures};
  const auto start = Clock::now();
  if (paritrace_open(nullptr) != PARITRACE_OK) std::exit(2);
  for (int layer = 0; layer < kLayers; ++layer) {
    values[static_cast<std::size_t>(layer)] = static_cast<float>(layer);
    if (paritrace_record("mlp.up", layer, values.data(), PARITRACE_F32, 2, shape, nullptr) != PARITRACE_OK)
      std::exit(2);
  }
  if (paritrace_close() != PARITRACE_OK) std::exit(2);
  if (std::strcmp(mode, "full") == 0) SyncAll(directory);
  const double rate = kLayers * static_cast<double>(values.size() * sizeof(float)) / SecondsSince(start) / 1e9;
  fs::remove_all(directory);
  return rate;
}

}  // namespace

int main(int argc, char** argv) {
  int repetitions = 5;
  fs::path parent = fs::temp_directory_path();
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--repetitions") == 0) repetitions = std::max(1, std::atoi(argv[i + 1]));
    if (std::strcmp(argv[i], "--dir") == 0) parent = argv[i + 1];
  }
  const fs::path scratch = parent / fmt::format("paritrace-capture-bench-{}", ::getpid());
  fs::create_directories(scratch);
  ::unsetenv("PARITRACE_DIR");

  std::vector<double> off, empty;
  for (int i = 0; i < repetitions; ++i) {
    off.push_back(NanosecondsOff(true));
    empty.push_back(NanosecondsOff(false));
  }
  fmt::print("off: {:.2f} ns a call (a turn of the loop {:.2f} ns, without the call {:.2f} ns)\n",
             Median(off) - Median(empty), Median(off), Median(empty));

  std::vector<float> values(static_cast<std::size_t>(kRows * kFeatures));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 1000) * 0.01f - 5;
  fmt::print("tensors of [{}, {}] f32, {} of them; GB/s, medians of {}; dd and full until the data is on the disk\n",
             kRows, kFeatures, kLayers, repetitions);
  std::vector<double> dd, full, stats, digest;
  for (int i = 0; i < repetitions; ++i) {
    stats.push_back(GigabytesRecorded(scratch / "stats", "stats", values));
    digest.push_back(GigabytesRecorded(scratch / "digest", "digest", values));
    dd.push_back(GigabytesOfDd((scratch / "dd").string()));
    full.push_back(GigabytesRecorded(scratch / "full", "full", values));
  }
  fmt::print("stats {:.2f}   digest {:.2f}   full {:.2f}   dd {:.2f}   full/dd {:.2f}\n", Median(stats), Median(digest),
             Median(full), Median(dd), Median(full) / Median(dd));
  fs::remove_all(scratch);
  return 0;
}
