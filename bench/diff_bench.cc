// How fast a comparison is beside merely reading the same bytes: the limit it can reach.
//
// Pairs of tensors are written to files, mapped, and brought into the page cache and the page tables by a first pass. Then,
// in turn, again and again: (a) a read-only pass over the same mapped bytes, (b) the comparison with all statistics that
// `diff` takes by default. Both use the same threads. Reading and comparing alternate, so that a busy machine slows both.
// The ratio is that of the medians. Before anything is timed, the comparison is checked against long double.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "compare/pair_kernels.h"
#include "compare/pair_stats.h"
#include "core/decode.h"
#include "core/file.h"
#include "core/parallel.h"

namespace {

namespace fs = std::filesystem;
using namespace paritrace;

constexpr std::int64_t kFeatures = 4096;
constexpr double kGiga = 1e9;

struct Options {
  std::int64_t rows = 1 << 16;  // [rows, 4096]: 1 GiB in f32
  int repetitions = 11;
  fs::path directory = fs::temp_directory_path();
};

[[noreturn]] void Usage(const char* what) {
  fmt::print(stderr, "{}\nusage: diff_bench [--rows N] [--repetitions N] [--dir DIRECTORY]\n", what);
  std::exit(2);
}

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    std::string name = argv[i], value;
    if (const std::size_t equals = name.find('='); equals != std::string::npos) {
      value = name.substr(equals + 1);
      name.resize(equals);
    } else if (i + 1 < argc) {
      value = argv[++i];
    } else {
      Usage("an option without its value");
    }
    if (name == "--rows") {
      options.rows = std::max(1ll, std::atoll(value.c_str()));
    } else if (name == "--repetitions") {
      options.repetitions = std::max(1, std::atoi(value.c_str()));
    } else if (name == "--dir") {
      options.directory = value;
    } else {
      Usage(("unknown option " + name).c_str());
    }
  }
  return options;
}

// A folder that is gone when the program ends, however it ends.
class Scratch {
 public:
  explicit Scratch(const fs::path& parent) : path_(parent / fmt::format("paritrace-bench-{}", ::getpid())) {
    fs::create_directories(path_);
  }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  [[nodiscard]] const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// A value near a normal one for every index, without the cost of one: the time goes into writing.
float ValueAt(std::uint64_t index) {
  std::uint64_t x = index * 0x9E3779B97F4A7C15ull;
  x ^= x >> 29;
  x *= 0xBF58476D1CE4E5B9ull;
  x ^= x >> 32;
  const auto sum =
      static_cast<std::int64_t>((x & 0xFFFF) + (x >> 16 & 0xFFFF) + (x >> 32 & 0xFFFF) + (x >> 48)) - 2 * 0xFFFF;
  return static_cast<float>(sum) * 0x1p-15f;
}

// disturbance: relative, a different one for each value, as a rounding would be.
void WriteTensor(const fs::path& path, DType dtype, std::int64_t rows, float disturbance) {
  std::ofstream file(path, std::ios::binary);
  std::vector<float> values(kFeatures);
  std::vector<std::uint16_t> halves(kFeatures);
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t i = 0; i < kFeatures; ++i) {
      const auto index = static_cast<std::uint64_t>(row * kFeatures + i);
      const float value = ValueAt(index) * (1 + disturbance * ValueAt(~index));
      values[static_cast<std::size_t>(i)] = value;
      halves[static_cast<std::size_t>(i)] = dtype == DType::kF16 ? FloatToHalf(value) : FloatToBFloat(value);
    }
    const bool narrow = dtype == DType::kF16 || dtype == DType::kBF16;
    file.write(narrow ? reinterpret_cast<const char*>(halves.data()) : reinterpret_cast<const char*>(values.data()),
               static_cast<std::streamsize>(kFeatures * (narrow ? 2 : 4)));
  }
  if (!file.flush()) throw std::runtime_error("cannot write " + path.string());
}

struct Mapped {
  std::shared_ptr<const InputFile> file;
  TensorView view;
};

Mapped MapTensor(const fs::path& path, DType dtype, std::int64_t rows) {
  Mapped mapped;
  mapped.file = MapFile(path.string());
  mapped.view = {path.filename().string(), dtype, {rows, kFeatures}, mapped.file->bytes()};
  return mapped;
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
std::uint64_t
SumWords(const std::byte* from, std::int64_t words) {
  std::uint64_t sum = 0;
  for (std::int64_t i = 0; i < words; ++i) {
    std::uint64_t word;
    std::memcpy(&word, from + 8 * i, 8);
    sum += word;
  }
  return sum;
}

// Each thread reads a stretch of both tensors, as the comparison does.
std::uint64_t ReadBoth(const Mapped& a, const Mapped& b) {
  constexpr std::int64_t kStretch = 1 << 20;
  std::atomic<std::uint64_t> total{0};
  const auto values = static_cast<std::int64_t>(a.view.size());
  ParallelFor(values, kStretch / 4, [&](std::int64_t begin, std::int64_t end) {
    std::uint64_t sum = 0;
    for (const Mapped* side : {&a, &b}) {
      const int width = Info(side->view.dtype).block_bytes;
      sum += SumWords(side->view.bytes.data() + begin * width, (end - begin) * width / 8);
    }
    total.fetch_add(sum, std::memory_order_relaxed);
  });
  return total;
}

double Seconds(const auto& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Spread {
  double median, low, high;  // the quartiles
};

Spread SpreadOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1) + 0.5)];
  };
  return {at(0.5), at(0.25), at(0.75)};
}

bool AgreesWithLongDouble(const Mapped& a, const Mapped& b) {
  TensorView few_a = a.view, few_b = b.view;
  const std::int64_t rows = std::min<std::int64_t>(a.view.shape[0], 16);
  for (TensorView* view : {&few_a, &few_b}) {
    view->shape[0] = rows;
    view->bytes = view->bytes.first(static_cast<std::size_t>(*ByteCount(view->shape, view->dtype)));
  }
  const PairLayout layout = ContiguousLayout(rows, kFeatures);
  const PairStats got = ComparePair(few_a, few_b, layout).total,
                  expected = ComparePairReference(few_a, few_b, layout).total;
  const auto near = [](double x, double y) { return std::abs(x - y) <= 1e-12 * std::abs(y); };
  return got.equal == expected.equal && got.max_abs_at == expected.max_abs_at &&
         near(got.dd.Total(), expected.dd.Total()) && near(got.rr.Total(), expected.rr.Total()) &&
         near(got.Nmse(), expected.Nmse()) && near(got.MeanAbs(), expected.MeanAbs());
}

std::string CpuName() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown CPU";
}

int Run(int argc, char** argv) {
  const Options options = Parse(argc, argv);
  fmt::print(
      "{}, {} threads, vectors: {}. Pairs of [{}, {}] values, both sides mapped and in the page cache; GB/s: medians "
      "of {} "
      "runs, quartiles in brackets.\n\n",
      CpuName(), ThreadCount(), ActiveKernelTarget(), options.rows, kFeatures, options.repetitions);
  std::fflush(stdout);

  const Scratch scratch(options.directory);
  const fs::path subject_path = scratch.path() / "subject-f32";
  WriteTensor(subject_path, DType::kF32, options.rows, 1e-3f);
  const Mapped subject = MapTensor(subject_path, DType::kF32, options.rows);
  fmt::print("| {:<8} | {:>20} | {:>20} | {:>5} | {:>20} | {:>5} |\n", "pair", "read only", "compare", "ratio",
             "--all-stats", "ratio");
  fmt::print("|---|---|---|---|---|---|\n");
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const fs::path path = scratch.path() / fmt::format("reference-{}", Name(dtype));
    WriteTensor(path, dtype, options.rows, 0);
    {
      const Mapped reference = MapTensor(path, dtype, options.rows);
      if (!AgreesWithLongDouble(reference, subject)) {
        fmt::print(stderr, "{}: the kernel disagrees with long double\n", Name(dtype));
        return 1;
      }
      const PairLayout layout = ContiguousLayout(options.rows, kFeatures);
      const double bytes = static_cast<double>(reference.view.bytes.size() + subject.view.bytes.size());
      volatile std::uint64_t read_sink = ReadBoth(reference, subject);  // the first pass brings everything in
      volatile double compare_sink = 0;
      const CompareOptions all_stats{.progress = nullptr, .detail = true};
      std::vector<double> reading, comparing, detailing;
      const auto rate = [&](const auto& work) { return bytes / kGiga / Seconds(work); };
      for (int i = 0; i < options.repetitions; ++i) {
        reading.push_back(rate([&] { read_sink = ReadBoth(reference, subject); }));
        comparing.push_back(
            rate([&] { compare_sink = ComparePair(reference.view, subject.view, layout).total.Nmse(); }));
        detailing.push_back(
            rate([&] { compare_sink = ComparePair(reference.view, subject.view, layout, all_stats).total.Nmse(); }));
      }
      const auto figure = [](const Spread& spread) {
        return fmt::format("{:.2f} [{:.2f}, {:.2f}]", spread.median, spread.low, spread.high);
      };
      const Spread read = SpreadOf(reading), compared = SpreadOf(comparing), detailed = SpreadOf(detailing);
      fmt::print("| {:<8} | {:>20} | {:>20} | {:>5.2f} | {:>20} | {:>5.2f} |\n", fmt::format("{}/f32", Name(dtype)),
                 figure(read), figure(compared), compared.median / read.median, figure(detailed),
                 detailed.median / read.median);
      std::fflush(stdout);
    }
    fs::remove(path);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "diff_bench: {}\n", error.what());
    return 2;
  }
}
