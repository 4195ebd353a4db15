#include "trace/record_queue.h"

#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "core/error.h"
#include "core/parallel.h"
#include "core/text.h"

namespace paritrace {
namespace {

// Memory that is given out and taken back in the same order.
class Ring {
 public:
  explicit Ring(std::uint64_t size) : size_(size) {}

  // Whether a tensor of that many bytes could ever have a place.
  [[nodiscard]] bool CanHold(std::uint64_t bytes) const { return Rounded(bytes) <= size_; }

  // nullptr while there is no room.
  std::byte* Take(std::uint64_t bytes) {
    // Not before it is needed: a digest never does. Untouched pages cost nothing.
    if (!memory_) memory_.reset(Allocate());
    bytes = Rounded(bytes);
    if (taken_.empty()) head_ = 0;  // again from the beginning, where the cache is warm
    const std::uint64_t tail = taken_.empty() ? 0 : taken_.front();
    const bool wrapped = !taken_.empty() && head_ <= tail;
    if (!wrapped && size_ - head_ < bytes) {
      if (taken_.empty() || tail < bytes) return nullptr;
      head_ = 0;
    } else if (wrapped && tail - head_ < bytes) {
      return nullptr;
    }
    taken_.push_back(head_);
    head_ += bytes;
    return memory_.get() + taken_.back();
  }

  // The oldest.
  void GiveBack() { taken_.pop_front(); }

 private:
  static constexpr std::uint64_t kAlign = 64, kHugePage = 2 << 20;
  struct Delete {
    void operator()(std::byte* memory) const { ::operator delete (memory, std::align_val_t{kHugePage}); }
  };

  [[nodiscard]] std::byte* Allocate() const {
    auto* const memory = static_cast<std::byte*>(::operator new (size_, std::align_val_t{kHugePage}));
    // A hint: each page that is touched for the first time costs as much as copying it does.
    if (size_ >= kHugePage) (void)::madvise(memory, size_ / kHugePage * kHugePage, MADV_HUGEPAGE);
    return memory;
  }

  // Never 0: two pieces must not begin at one place.
  static std::uint64_t Rounded(std::uint64_t bytes) {
    return (std::max<std::uint64_t>(bytes, 1) + kAlign - 1) / kAlign * kAlign;
  }

  std::uint64_t size_, head_ = 0;
  std::unique_ptr<std::byte, Delete> memory_;
  std::deque<std::uint64_t> taken_;  // where each piece begins, oldest first
};

// Lines of text that wait for the disk, at most.
constexpr std::int64_t kMostWaiting = 4096;

struct Job {
  std::int64_t seq = 0;
  int step = 0;
  std::string name, site;
  TensorView tensor;  // contiguous; in the ring, or in `own`
  bool in_ring = false;
  std::unique_ptr<std::byte[]> own;
  std::optional<TraceWriter::Entry> entry;  // once described
};

// The engine's signal handlers belong to its own threads; and a write beyond a file size limit must come back as an error,
// not as the signal SIGXFSZ, which would end the engine.
class AllSignalsBlocked {
 public:
  AllSignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~AllSignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  AllSignalsBlocked(const AllSignalsBlocked&) = delete;
  AllSignalsBlocked& operator=(const AllSignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

// A write beyond a file size limit comes back as an error, and not as the signal SIGXFSZ, which would end the engine.
class NoFileSizeSignal {
 public:
  NoFileSizeSignal() {
    sigemptyset(&signal_);
    sigaddset(&signal_, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &signal_, &before_);
  }
  ~NoFileSizeSignal() {
    if (sigismember(&before_, SIGXFSZ) == 1) return;
    // Taken back first: it would be delivered at once.
    const timespec at_once{};
    while (sigtimedwait(&signal_, nullptr, &at_once) < 0 && errno == EINTR) {
    }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  NoFileSizeSignal(const NoFileSizeSignal&) = delete;
  NoFileSizeSignal& operator=(const NoFileSizeSignal&) = delete;

 private:
  sigset_t signal_, before_;
};

}  // namespace

struct RecordQueue::State {
  State(std::unique_ptr<TraceWriter> to, std::uint64_t buffer_bytes)
      : writer(std::move(to)), ring(buffer_bytes), copies(writer->mode() == TraceWriter::Mode::kFull) {
    // One describes while the other writes; more would only take cores from the engine.
    const int count = copies ? std::clamp(ThreadCount(), 1, 2) : 1;
    const AllSignalsBlocked inherited_by_the_threads;
    for (int i = 0; i < count; ++i) threads.emplace_back([this] { Work(); });
  }

  // Records without a copy, on the engine's own threads: they wait awake between two ops, and a thread of ours that wrote
  // meanwhile would take a core from them for longer than the write takes.
  void RecordHere(Job job, const StridedTensor& tensor, std::uint64_t bytes) {
    {
      const std::scoped_lock lock(mutex);
      ThrowIfFailed();
      job.seq = next++;
    }
    try {
      job.tensor.bytes = {tensor.data, bytes};
      job.entry = writer->Describe(job.step, job.name, job.site, job.tensor);
    } catch (...) {
      GiveUp(std::move(job));
      throw;
    }
    const NoFileSizeSignal errors_only;
    const std::int64_t seq = job.seq;
    std::unique_lock lock(mutex);
    described.emplace(seq, std::move(job));
    // Where something before it is not written yet, whoever writes that goes on with this one.
    if (CanAppend()) AppendAll(lock);
    room.wait(lock, [&] { return written > seq; });
    ThrowIfFailed();
  }

  // Gives the job its place in the order, and room for its copy where one is made.
  void Admit(Job& job, std::uint64_t copy_bytes) {
    std::unique_lock lock(mutex);
    ThrowIfFailed();
    if (copies && ring.CanHold(copy_bytes)) {
      std::byte* place = nullptr;
      room.wait(lock, [&] { return failed || (place = ring.Take(copy_bytes)) != nullptr; });
      if (place == nullptr) ThrowIfFailed();
      job.tensor.bytes = {place, copy_bytes};
      job.in_ring = true;
    } else if (copies) {
      room.wait(lock, [&] { return failed || next == written; });
      ThrowIfFailed();
      job.own = std::make_unique_for_overwrite<std::byte[]>(copy_bytes);
      job.tensor.bytes = {job.own.get(), copy_bytes};
    } else {
      room.wait(lock, [&] { return failed || next - written < kMostWaiting; });
      ThrowIfFailed();
    }
    job.seq = next++;
  }

  void HandOver(Job job) {
    const std::scoped_lock lock(mutex);
    if (job.entry) {
      described.emplace(job.seq, std::move(job));
    } else {
      copied.push_back(std::move(job));
    }
    if (idle > 0) work.notify_one();
  }

  // Leaves the job's place in the order empty.
  void GiveUp(Job job) {
    job.entry.reset();
    const std::scoped_lock lock(mutex);
    described.emplace(job.seq, std::move(job));
    work.notify_one();
  }

  void Work() {
    std::unique_lock lock(mutex);
    for (;;) {
      if (CanAppend()) {
        AppendAll(lock);
      } else if (!copied.empty()) {
        Job job = std::move(copied.front());
        copied.pop_front();
        lock.unlock();
        DescribeHere(job);
        lock.lock();
        described.emplace(job.seq, std::move(job));
      } else if (stopping) {
        return;
      } else {
        ++idle;
        work.wait(lock);
        --idle;
      }
    }
  }

  [[nodiscard]] bool CanAppend() const {
    return !appending && !described.empty() && described.begin()->first == written;
  }

  void DescribeHere(Job& job) {
    try {
      job.entry = writer->Describe(job.step, job.name, job.site, job.tensor);
    } catch (const std::exception& error) {
      const std::scoped_lock lock(mutex);
      Fail(error.what());
    }
  }

  // One thread at a time; others go on describing and leave what they have done to it.
  void AppendAll(std::unique_lock<std::mutex>& lock) {
    appending = true;
    while (!described.empty() && described.begin()->first == written) {
      Job job = std::move(described.begin()->second);
      described.erase(described.begin());
      if (job.entry && !failed) {
        lock.unlock();
        std::string what;
        try {
          const std::scoped_lock one_writer(writer_mutex);
          writer->Append(*std::move(job.entry));
        } catch (const std::exception& error) {
          what = error.what();
        }
        lock.lock();
        if (!what.empty()) Fail(what);
      }
      if (job.in_ring) ring.GiveBack();
      ++written;
      room.notify_all();
    }
    appending = false;
  }

  // With `mutex` held.
  void Fail(const std::string& what) {
    if (!failed) failed = what;
    room.notify_all();
  }
  void ThrowIfFailed() const {
    if (failed) throw UsageError(*failed);
  }

  void Drain() {
    std::unique_lock lock(mutex);
    const std::int64_t last = next;
    room.wait(lock, [&] { return written >= last; });
    ThrowIfFailed();
  }

  void Stop() {
    {
      std::unique_lock lock(mutex);
      room.wait(lock, [&] { return written >= next; });
      stopping = true;
    }
    work.notify_all();
    for (std::thread& thread : threads) thread.join();
    threads.clear();
  }

  std::unique_ptr<TraceWriter> writer;
  std::mutex writer_mutex;  // Append against UpdateHeader; taken while `mutex` is not held

  std::mutex mutex;  // guards all below
  std::condition_variable work, room;
  Ring ring;
  const bool copies;
  std::deque<Job> copied;                 // wait to be described
  std::map<std::int64_t, Job> described;  // wait for their turn, by seq
  std::int64_t next = 0, written = 0;     // seq of the next tensor handed in; of the next one to write
  int idle = 0;
  bool appending = false, stopping = false;
  Team team;
  std::thread::id team_thread;  // on which it may be used
  std::optional<std::string> failed;
  std::vector<std::thread> threads;
};

RecordQueue::RecordQueue(std::unique_ptr<TraceWriter> writer, std::uint64_t buffer_bytes)
    : state_(std::make_unique<State>(std::move(writer), buffer_bytes)) {}

RecordQueue::~RecordQueue() { state_->Stop(); }

void RecordQueue::Record(int step, std::string_view name, std::string_view site, const StridedTensor& tensor) {
  const auto bytes = ByteCount(tensor.shape, tensor.dtype);
  if (!bytes || IsBlockQuantised(tensor.dtype)) {
    throw UsageError(fmt::format("record: tensor {}: expected a size within memory and no block type, found {} {}",
                                 Quoted(name), Name(tensor.dtype), ToString(tensor.shape)));
  }
  const auto size = static_cast<std::uint64_t>(*bytes);
  State& state = *state_;
  Job job;
  job.step = step;
  job.name = name;
  job.site = site;
  job.tensor.dtype = tensor.dtype;
  job.tensor.shape = tensor.shape;
  const bool has_team = state.team && std::this_thread::get_id() == state.team_thread;
  const OnTeam on_team(has_team ? &state.team : nullptr);
  if (has_team && state.copies && tensor.strides.empty()) return state.RecordHere(std::move(job), tensor, size);
  state.Admit(job, size);
  try {
    if (state.copies) {
      CopyContiguous(tensor, const_cast<std::byte*>(job.tensor.bytes.data()));
    } else {
      std::unique_ptr<std::byte[]> gathered;
      job.tensor.bytes = {tensor.data, size};
      if (!tensor.strides.empty() && size > 0) {
        gathered = std::make_unique_for_overwrite<std::byte[]>(size);
        CopyContiguous(tensor, gathered.get());
        job.tensor.bytes = {gathered.get(), size};
      }
      job.entry = state.writer->Describe(step, name, site, job.tensor);
      job.tensor.bytes = job.entry->tensor.bytes = {};
    }
  } catch (...) {
    state.GiveUp(std::move(job));
    throw;
  }
  state.HandOver(std::move(job));
}

void RecordQueue::UseTeam(Team team) {
  state_->team = std::move(team);
  state_->team_thread = std::this_thread::get_id();
}

void RecordQueue::Flush() { state_->Drain(); }

void RecordQueue::UpdateHeader(const nlohmann::ordered_json& header) {
  {
    const std::scoped_lock lock(state_->mutex);
    state_->ThrowIfFailed();
  }
  const std::scoped_lock one_writer(state_->writer_mutex);
  state_->writer->UpdateHeader(header);
}

void RecordQueue::Close() {
  state_->Drain();
  const std::scoped_lock one_writer(state_->writer_mutex);
  state_->writer->Close();
}

}  // namespace paritrace
