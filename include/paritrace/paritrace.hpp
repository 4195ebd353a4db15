// paritrace/capture.h for C++20: types for the tensors, and a trace that is closed when its scope ends. Headers only.
//
//     paritrace::Session session({.engine = "mine", .engine_version = "1.2", .architecture = "llama"});
//     paritrace::Step(0, tokens);
//     paritrace::Record("attn.q", layer, q.data(), {tokens.size(), heads * head_dim});
//
// Nothing is recorded, and a Record costs one branch, until PARITRACE_DIR says where to. Nothing throws: functions return
// PARITRACE_OK or a negative code of capture.h. With PARITRACE_DISABLED defined all of it compiles to nothing.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <type_traits>

#include "paritrace/capture.h"

namespace paritrace {

// Types that C++20 lacks, as the bits that engines keep them in: {bits} of one value.
struct BF16Bits {
  std::uint16_t bits;
};
struct F16Bits {
  std::uint16_t bits;
};

// The ABI's number of a C++ type. An engine's own half type: specialise it,
//     template <> inline constexpr int paritrace::kDTypeOf<my::half> = PARITRACE_F16;
template <typename T>
inline constexpr int kDTypeOf = [] {
  static_assert(std::is_integral_v<T>, "specialise paritrace::kDTypeOf for this type");
  constexpr bool kSigned = std::is_signed_v<T>;
  if (std::is_same_v<T, bool>) return int{PARITRACE_BOOL};
  switch (sizeof(T)) {
    case 1: return kSigned ? int{PARITRACE_I8} : int{PARITRACE_U8};
    case 2: return kSigned ? int{PARITRACE_I16} : int{PARITRACE_U16};
    case 4: return kSigned ? int{PARITRACE_I32} : int{PARITRACE_U32};
    default: return kSigned ? int{PARITRACE_I64} : int{PARITRACE_U64};
  }
}();
template <>
inline constexpr int kDTypeOf<double> = PARITRACE_F64;
template <>
inline constexpr int kDTypeOf<float> = PARITRACE_F32;
template <>
inline constexpr int kDTypeOf<BF16Bits> = PARITRACE_BF16;
template <>
inline constexpr int kDTypeOf<F16Bits> = PARITRACE_F16;

// paritrace_info without its size field. Strings may be left out, and must live until the Session is made.
struct TraceInfo {
  const char* directory = nullptr;
  const char* engine = nullptr;
  const char* engine_version = nullptr;
  const char* model = nullptr;
  const char* architecture = nullptr;
  const char* model_file = nullptr;
  const char* arithmetic = nullptr;
};

// The process's trace: opened here, completed at the end of the scope. If the scope is left by an exception, too: a trace
// of a run that failed then says "complete"; call paritrace_open and paritrace_close where that matters.
class Session {
 public:
  explicit Session(const TraceInfo& info) {
    const paritrace_info all = {sizeof(paritrace_info), info.directory, info.engine,
                                info.engine_version,    info.model,     info.architecture,
                                info.model_file,        info.arithmetic};
    status_ = paritrace_open(&all);
  }
  ~Session() {
    if (status_ == PARITRACE_OK) (void)paritrace_close();
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // PARITRACE_OK also where nothing is recorded.
  [[nodiscard]] int status() const { return status_; }

 private:
  int status_;
};

// Whether what is recorded now is kept; for work that is done for the trace alone.
inline bool IsRecording() { return PARITRACE_ON(); }

// Begins the next forward call, of `tokens` from position `start` on.
inline int Step(std::int64_t start, std::span<const std::int32_t> tokens) {
  return paritrace_step(start, tokens.data(), static_cast<std::int64_t>(tokens.size()));
}

// A shape or strides: {tokens, features}, of any integers.
class Axes {
 public:
  template <typename... Sizes>
  requires(sizeof...(Sizes) <= PARITRACE_MAX_AXES && (std::is_integral_v<Sizes> && ...)) constexpr Axes(Sizes... sizes)
      : values_{static_cast<std::int64_t>(sizes)...}, count_(sizeof...(Sizes)) {}
  // More than PARITRACE_MAX_AXES are refused when they are recorded.
  constexpr explicit Axes(std::span<const std::int64_t> sizes) : count_(static_cast<int>(sizes.size())) {
    for (std::size_t i = 0; i < sizes.size() && i < values_.size(); ++i) values_[i] = sizes[i];
  }
  [[nodiscard]] constexpr const std::int64_t* data() const { return values_.data(); }
  [[nodiscard]] constexpr int count() const { return count_; }

 private:
  std::array<std::int64_t, PARITRACE_MAX_AXES> values_{};
  int count_;
};

// Records a tensor, copied before the call returns.
//   site, layer  as paritrace_record's; layer -1: none
//   shape        outermost axis first; {}: one value
//   strides      in values, one an axis; left out: row-major without gaps
template <typename T>
inline int Record(const char* site, int layer, const T* data, const Axes& shape) {
  return paritrace_record(site, layer, data, kDTypeOf<T>, shape.count(), shape.data(), nullptr);
}
template <typename T>
inline int Record(const char* site, int layer, const T* data, const Axes& shape, const Axes& strides) {
  if (strides.count() != shape.count()) return PARITRACE_ERROR_USAGE;
  return paritrace_record(site, layer, data, kDTypeOf<T>, shape.count(), shape.data(), strides.data());
}

}  // namespace paritrace
