// A fixed set of worker threads and one parallel loop over an index range.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace fireq {

// Thread-safe only in that one thread at a time may call ParallelFor (the caller works too).
// Which thread runs which index never affects a result: bodies write disjoint outputs.
class ThreadPool {
 public:
  // `num_threads` >= 1 counts the calling thread; 0 means one a hardware thread.
  explicit ThreadPool(int num_threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Runs body(begin, end, thread) over [0, count) in chunks of at least `grain` indices, handed out
  // dynamically; `thread` < num_threads() indexes per-thread scratch. Returns when all have run;
  // the first exception of a body is rethrown here. Calls from inside a body run inline.
  void ParallelFor(int64_t count, int64_t grain,
                   const std::function<void(int64_t begin, int64_t end, int thread)>& body);

 private:
  struct State;
  std::unique_ptr<State> state_;
  int num_threads_;
};

}  // namespace fireq
