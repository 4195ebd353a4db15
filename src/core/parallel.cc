#include "core/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/team.h"

namespace paritrace {
namespace {

// True on a worker: a nested ParallelFor then runs in place instead of waiting for the pool it occupies.
thread_local bool inside_loop = false;

thread_local const Team* team_of_thread = nullptr;

struct Loop {
  std::int64_t count, grain, chunks;
  const std::function<void(std::int64_t, std::int64_t)>* body;
  std::atomic<std::int64_t> next{0};
  std::mutex error_mutex;
  std::exception_ptr error;

  void Run() {
    inside_loop = true;
    for (std::int64_t chunk; (chunk = next.fetch_add(1)) < chunks;) {
      try {
        (*body)(chunk * grain, std::min(count, (chunk + 1) * grain));
      } catch (...) {
        const std::scoped_lock lock(error_mutex);
        if (!error) error = std::current_exception();
        next.store(chunks);
      }
    }
    inside_loop = false;
  }
};

// Workers live as long as the process: starting a thread costs more than most of the loops here take.
class Pool {
 public:
  explicit Pool(int workers) {
    for (int i = 0; i < workers; ++i) threads_.emplace_back([this] { Work(); });
  }
  ~Pool() {
    {
      const std::scoped_lock lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void Run(Loop& loop) {
    const std::scoped_lock one_loop_at_a_time(run_mutex_);
    {
      const std::scoped_lock lock(mutex_);
      loop_ = &loop;
      busy_ = static_cast<int>(threads_.size());
      ++generation_;
    }
    wake_.notify_all();
    loop.Run();
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
    loop_ = nullptr;
  }

 private:
  void Work() {
    std::int64_t seen = 0;
    for (;;) {
      Loop* loop = nullptr;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stopping_ || generation_ != seen; });
        if (stopping_) return;
        seen = generation_;
        loop = loop_;
      }
      loop->Run();
      const std::scoped_lock lock(mutex_);
      if (--busy_ == 0) done_.notify_all();
    }
  }

  std::mutex run_mutex_, mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> threads_;
  Loop* loop_ = nullptr;
  int busy_ = 0;
  std::int64_t generation_ = 0;
  bool stopping_ = false;
};

}  // namespace

int ThreadCount() {
  static const int count = [] {
    const char* asked = std::getenv("PARITRACE_THREADS");
    const int wanted = asked != nullptr ? std::atoi(asked) : static_cast<int>(std::thread::hardware_concurrency());
    return std::clamp(wanted, 1, 1024);
  }();
  return count;
}

void ParallelFor(std::int64_t count, std::int64_t grain, const std::function<void(std::int64_t, std::int64_t)>& body) {
  if (count <= 0) return;
  grain = std::max<std::int64_t>(grain, 1);
  Loop loop{.count = count,
            .grain = grain,
            .chunks = (count - 1) / grain + 1,
            .body = &body,
            .error_mutex = {},
            .error = nullptr};
  if (inside_loop || loop.chunks == 1 || ThreadCount() == 1) {
    for (std::int64_t begin = 0; begin < count; begin += grain) body(begin, std::min(count, begin + grain));
    return;
  }
  if (team_of_thread != nullptr) {
    (*team_of_thread)([](void* argument) { static_cast<Loop*>(argument)->Run(); }, &loop);
  } else {
    static Pool pool(ThreadCount() - 1);
    pool.Run(loop);
  }
  if (loop.error) std::rethrow_exception(loop.error);
}

OnTeam::OnTeam(const Team* team) : before_(team_of_thread) {
  team_of_thread = team != nullptr && *team ? team : nullptr;
}
OnTeam::~OnTeam() { team_of_thread = before_; }

}  // namespace paritrace
