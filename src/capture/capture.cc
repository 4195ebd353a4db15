// The C functions of include/paritrace/capture.h: checks what comes in, and turns every exception into a code.
#include "paritrace/capture.h"

#undef paritrace_record  // here the function is meant

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "capture/session.h"
#include "capture/settings.h"
#include "core/error.h"

int paritrace_recording = 0;

namespace {

using namespace paritrace;
using Json = nlohmann::ordered_json;

static_assert(PARITRACE_F64 == static_cast<int>(DType::kF64) && PARITRACE_F8_E5M2 == static_cast<int>(DType::kF8E5M2) &&
              PARITRACE_I8 == static_cast<int>(DType::kI8) && PARITRACE_U64 == static_cast<int>(DType::kU64) &&
              PARITRACE_BOOL == static_cast<int>(DType::kBool));

// The process's one trace. Never destroyed: threads of the engine may still record while the process exits.
struct Global {
  std::shared_mutex mutex;  // shared to record, alone to open and close
  std::unique_ptr<CaptureSession> session;
  std::atomic<bool> said{false};  // a failure to write was told on standard error
};
Global& TheGlobal() {
  static Global* const global = new Global;
  return *global;
}

thread_local std::string last_error;

struct StateError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void SetRecording(bool on) { __atomic_store_n(&paritrace_recording, on ? 1 : 0, __ATOMIC_RELAXED); }

// A write beyond a file size limit sends SIGXFSZ, which would end the engine. While this lives it waits, and is then taken.
class FileSizeSignalHeld {
 public:
  FileSizeSignalHeld() {
    sigemptyset(&signal_);
    sigaddset(&signal_, SIGXFSZ);
    sigset_t before;
    pthread_sigmask(SIG_BLOCK, &signal_, &before);
    was_blocked_ = sigismember(&before, SIGXFSZ) == 1;
  }
  ~FileSizeSignalHeld() {
    if (was_blocked_) return;
    const timespec now{};
    while (sigtimedwait(&signal_, nullptr, &now) == SIGXFSZ) {
    }
    pthread_sigmask(SIG_UNBLOCK, &signal_, nullptr);
  }
  FileSizeSignalHeld(const FileSizeSignalHeld&) = delete;
  FileSizeSignalHeld& operator=(const FileSizeSignalHeld&) = delete;

 private:
  sigset_t signal_;
  bool was_blocked_;
};

int Failed(int code, const char* what) noexcept {
  try {
    last_error = what;
  } catch (...) {
    last_error.clear();
  }
  return code;
}

// Nothing may leave a C function but a code.
template <typename Body>
int Guarded(int usage_code, const Body& body) noexcept {
  try {
    body();
    return PARITRACE_OK;
  } catch (const UsageError& error) {
    return Failed(usage_code, error.what());
  } catch (const StateError& error) {
    return Failed(PARITRACE_ERROR_STATE, error.what());
  } catch (const std::bad_alloc&) {
    return Failed(PARITRACE_ERROR_MEMORY, "no memory for the copy of a tensor");
  } catch (const std::exception& error) {
    return Failed(PARITRACE_ERROR_INTERNAL, error.what());
  } catch (...) {
    return Failed(PARITRACE_ERROR_INTERNAL, "unknown");
  }
}

void Say(const char* what) { std::fprintf(stderr, "paritrace: %s\n", what); }

// A trace that cannot be written is told once, for engines that look at no codes.
int SayOnce(int code) {
  if (code == PARITRACE_ERROR_IO && !TheGlobal().said.exchange(true)) Say(last_error.c_str());
  return code;
}

// Fields beyond what the caller's struct has are not there.
paritrace_info Complete(const paritrace_info* info) {
  paritrace_info all{};
  if (info != nullptr) std::memcpy(&all, info, std::min(info->size, sizeof all));
  return all;
}

Json HeaderOf(const paritrace_info& info) {
  Json header = Json::object();
  const auto set = [&](const char* group, const char* key, const char* value) {
    if (value != nullptr) header[group][key] = value;
  };
  set("engine", "name", info.engine);
  set("engine", "version", info.engine_version);
  set("model", "name", info.model);
  set("model", "architecture", info.architecture);
  set("model", "file", info.model_file);
  set("run", "arithmetic", info.arithmetic);
  header["recorder"] = {{"name", "paritrace-capture"}, {"version", PARITRACE_VERSION}};
  return header;
}

// A child of fork() has none of the threads that write, and must not touch its parent's files.
void LeaveToTheParent() {
  SetRecording(false);
  (void)TheGlobal().session.release();
  new (&TheGlobal().mutex) std::shared_mutex;  // may have been held by a thread that is not here
}

void AtExit() {
  SetRecording(false);
  (void)Guarded(PARITRACE_ERROR_IO, [] {
    const std::unique_lock lock(TheGlobal().mutex);
    TheGlobal().session.reset();  // writes what is left
  });
}

void InstallHandlers() {
  static const bool once = [] {
    std::atexit(AtExit);
    pthread_atfork(nullptr, nullptr, LeaveToTheParent);
    return true;
  }();
  (void)once;
}

// Runs body(session), if there is one.
template <typename Body>
int WithSession(const Body& body) {
  Global& global = TheGlobal();
  const std::shared_lock lock(global.mutex);
  if (!global.session) return PARITRACE_OK;
  return SayOnce(Guarded(PARITRACE_ERROR_IO, [&] { body(*global.session); }));
}

StridedTensor TensorOf(const void* data, int dtype, int axes, const std::int64_t* shape, const std::int64_t* strides) {
  if (dtype < PARITRACE_F64 || dtype > PARITRACE_BOOL)
    throw UsageError(fmt::format("record: expected a dtype from 0 to {}, found {}", int{PARITRACE_BOOL}, dtype));
  if (axes < 0 || axes > PARITRACE_MAX_AXES || (axes > 0 && shape == nullptr)) {
    throw UsageError(fmt::format("record: expected 0 to {} axes with their shape, found {}{}", int{PARITRACE_MAX_AXES},
                                 axes, shape == nullptr ? " without" : ""));
  }
  StridedTensor tensor;
  tensor.data = static_cast<const std::byte*>(data);
  tensor.dtype = static_cast<DType>(dtype);
  tensor.shape.assign(shape, shape + axes);
  if (strides != nullptr) tensor.strides.assign(strides, strides + axes);
  const auto bytes = ByteCount(tensor.shape, tensor.dtype);
  if (!bytes)
    throw UsageError(fmt::format("record: expected a shape that fits in memory, found {}", ToString(tensor.shape)));
  if (data == nullptr && *bytes > 0)
    throw UsageError(fmt::format("record: expected data for {}, found NULL", ToString(tensor.shape)));
  return tensor;
}

}  // namespace

extern "C" {

int paritrace_open(const paritrace_info* info) {
  const FileSizeSignalHeld held;
  const int code = Guarded(PARITRACE_ERROR_USAGE, [&] {
    const paritrace_info all = Complete(info);
    const char* const variable = std::getenv("PARITRACE_DIR");
    const bool set = variable != nullptr && *variable != '\0';
    if (!set && all.directory == nullptr) return;
    CaptureSettings settings = ReadCaptureSettings();
    if (!set) settings.directory = all.directory;
    Global& global = TheGlobal();
    const std::unique_lock lock(global.mutex);
    if (global.session) throw StateError("paritrace_open: a trace is open already");
    global.session = std::make_unique<CaptureSession>(settings, HeaderOf(all));
    global.said = false;
    InstallHandlers();
    SetRecording(global.session->StepIsWanted());
  });
  if (code != PARITRACE_OK) Say(last_error.c_str());
  return code;
}

int paritrace_step(std::int64_t start, const std::int32_t* tokens, std::int64_t count) {
  if (start < 0 || count < 0) return Failed(PARITRACE_ERROR_USAGE, "step: expected a start and a count from 0");
  const FileSizeSignalHeld held;
  return WithSession([&](CaptureSession& session) {
    const std::size_t known = tokens != nullptr && count > 0 ? static_cast<std::size_t>(count) : 0;
    session.BeginStep(start, count, {tokens, known});
    SetRecording(session.StepIsWanted());
  });
}

int paritrace_record(const char* site, int layer, const void* data, int dtype, int axes, const std::int64_t* shape,
                     const std::int64_t* strides) {
  if (!PARITRACE_ON()) return PARITRACE_OK;
  StridedTensor tensor;
  const int code = Guarded(PARITRACE_ERROR_USAGE, [&] {
    if (site == nullptr || *site == '\0') throw UsageError("record: expected a name, found none");
    if (layer < -1) throw UsageError(fmt::format("record: expected a layer from 0, or -1, found {}", layer));
    tensor = TensorOf(data, dtype, axes, shape, strides);
  });
  if (code != PARITRACE_OK) return code;
  return WithSession([&](CaptureSession& session) { session.Record(site, layer, tensor); });
}

int paritrace_flush(void) {
  return WithSession([](CaptureSession& session) { session.Flush(); });
}

int paritrace_close(void) {
  const FileSizeSignalHeld held;
  SetRecording(false);
  Global& global = TheGlobal();
  const std::unique_lock lock(global.mutex);
  if (!global.session) return PARITRACE_OK;
  const std::unique_ptr<CaptureSession> session = std::move(global.session);
  return SayOnce(Guarded(PARITRACE_ERROR_IO, [&] { session->Close(); }));
}

const char* paritrace_error(void) { return last_error.c_str(); }

}  // extern "C"
