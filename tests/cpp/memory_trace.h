// Traces made in memory, for tests of what compares them: no files, no reader.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/decode.h"
#include "trace/trace.h"

namespace paritrace::testing_support {

// n values of a fixed random sequence, normal, rms `scale`.
inline std::vector<double> Normal(std::int64_t count, unsigned seed, double scale = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0, scale);
  std::vector<double> values(static_cast<std::size_t>(count));
  for (double& value : values) value = normal(generator);
  return values;
}

// Each value times 1 + relative * a normal number: what independent roundings look like.
inline std::vector<double> Disturbed(std::vector<double> values, double relative, unsigned seed) {
  const std::vector<double> noise = Normal(static_cast<std::int64_t>(values.size()), seed, relative);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] *= 1 + noise[i];
  return values;
}

class MemoryTrace {
 public:
  MemoryTrace() { trace_.path = "memory"; }

  MemoryTrace& Engine(std::string name, std::string arithmetic, std::string architecture = "llama") {
    trace_.header.engine_name = std::move(name);
    trace_.header.arithmetic = std::move(arithmetic);
    trace_.header.model_architecture = std::move(architecture);
    return *this;
  }
  MemoryTrace& Tokens(std::vector<std::int64_t> tokens) {
    trace_.header.tokens = {std::move(tokens)};
    return *this;
  }
  MemoryTrace& Step(int step, std::int64_t start, std::int64_t count) {
    trace_.header.steps.push_back({step, start, count});
    return *this;
  }
  MemoryTrace& Unordered() {
    trace_.has_order = false;
    return *this;
  }

  // `name`: a site, or with is_site false an engine's own name that nothing maps.
  MemoryTrace& Add(int step, const std::string& name, Shape shape, const std::vector<double>& values,
                   DType dtype = DType::kF32, bool is_site = true) {
    auto bytes = std::make_unique<std::vector<std::byte>>();
    for (const double value : values) {
      switch (dtype) {
        case DType::kBF16: Put(*bytes, FloatToBFloat(static_cast<float>(value))); break;
        case DType::kF16: Put(*bytes, FloatToHalf(static_cast<float>(value))); break;
        case DType::kI32: Put(*bytes, static_cast<std::int32_t>(value)); break;
        case DType::kF64: Put(*bytes, value); break;
        default: Put(*bytes, static_cast<float>(value)); break;
      }
    }
    TraceEntry entry;
    entry.seq = static_cast<std::int64_t>(trace_.entries.size());
    entry.step = step;
    entry.name = name;
    if (is_site) entry.site = name;
    entry.tensor = {name, dtype, std::move(shape), *bytes};
    trace_.entries.push_back(std::move(entry));
    storage_.push_back(std::move(bytes));
    return *this;
  }

  // Shape and hash only, as in a digest trace.
  MemoryTrace& AddDigest(int step, const std::string& site, Shape shape, std::string hash) {
    TraceEntry entry;
    entry.step = step;
    entry.name = entry.site = site;
    entry.tensor = {site, DType::kF32, std::move(shape), {}};
    entry.hash = std::move(hash);
    trace_.entries.push_back(std::move(entry));
    return *this;
  }

  [[nodiscard]] const Trace& trace() const { return trace_; }
  [[nodiscard]] Trace& trace() { return trace_; }

 private:
  template <typename T>
  static void Put(std::vector<std::byte>& bytes, T value) {
    const std::size_t at = bytes.size();
    bytes.resize(at + sizeof value);
    std::memcpy(bytes.data() + at, &value, sizeof value);
  }

  Trace trace_;
  std::vector<std::unique_ptr<std::vector<std::byte>>> storage_;
};

}  // namespace paritrace::testing_support
