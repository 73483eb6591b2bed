#include "fireq/base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace fireq {
namespace {

// How long a worker polls for the next loop before it sleeps: decode runs hundreds of loops a
// token, a few microseconds apart, and a futex wake costs more than most of them.
constexpr int kSpins = 4000;

// Whose body is running on this thread: the pool's state (null: none's) and the thread's number.
struct RunningBody {
  const void* pool = nullptr;
  int thread = 0;
};
// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): a mark, no state.
thread_local RunningBody running_body;

inline void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

struct ThreadPool::State {
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<uint64_t> generation{0};
  std::atomic<bool> stop{false};

  // The loop in flight.
  const std::function<void(int64_t, int64_t, int)>* body = nullptr;
  int64_t count = 0;
  int64_t chunk = 1;
  std::atomic<int64_t> next{0};
  std::atomic<int> running{0};
  std::exception_ptr failure;
  std::vector<std::jthread> workers;

  void Work(int thread) {
    running_body = {this, thread};
    try {
      for (;;) {
        const int64_t begin = next.fetch_add(chunk, std::memory_order_relaxed);
        if (begin >= count) break;
        (*body)(begin, std::min(begin + chunk, count), thread);
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
      next.store(count, std::memory_order_relaxed);
    }
    running_body = {};
  }

  void WorkerLoop(int thread) {
    uint64_t seen = 0;
    for (;;) {
      for (int spin = 0; spin < kSpins && generation.load(std::memory_order_acquire) == seen;
           ++spin)
        Pause();
      if (generation.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(mutex);
        wake.wait(lock, [&] { return generation.load(std::memory_order_acquire) != seen; });
      }
      seen = generation.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_acquire)) return;
      Work(thread);
      running.fetch_sub(1, std::memory_order_acq_rel);
    }
  }
};

ThreadPool::ThreadPool(int num_threads) : state_(std::make_unique<State>()) {
  num_threads_ = num_threads > 0
                     ? num_threads
                     : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  for (int i = 1; i < num_threads_; ++i)
    state_->workers.emplace_back([state = state_.get(), i] { state->WorkerLoop(i); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop.store(true, std::memory_order_release);
    state_->generation.fetch_add(1, std::memory_order_acq_rel);
  }
  state_->wake.notify_all();
}

void ThreadPool::ParallelFor(int64_t count, int64_t grain,
                             const std::function<void(int64_t, int64_t, int)>& body) {
  if (count <= 0) return;
  grain = std::max<int64_t>(1, grain);
  if (num_threads_ == 1 || count <= grain || running_body.pool != nullptr) {
    // The number of a thread of another pool means nothing here.
    body(0, count, running_body.pool == state_.get() ? running_body.thread : 0);
    return;
  }
  State& state = *state_;
  state.body = &body;
  state.count = count;
  // Four chunks a thread evens out a thread that lost its core for a while.
  const int64_t chunks = int64_t{4} * num_threads_;
  state.chunk = std::max(grain, (count + chunks - 1) / chunks);
  state.next.store(0, std::memory_order_relaxed);
  state.running.store(num_threads_ - 1, std::memory_order_relaxed);
  state.failure = nullptr;
  {
    const std::lock_guard lock(state.mutex);
    state.generation.fetch_add(1, std::memory_order_acq_rel);
  }
  state.wake.notify_all();
  state.Work(0);
  for (int spin = 0; state.running.load(std::memory_order_acquire) != 0; ++spin) {
    if (spin < kSpins) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
  if (state.failure) std::rethrow_exception(state.failure);
}

}  // namespace fireq
