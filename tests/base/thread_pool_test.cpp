#include "fireq/base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <barrier>
#include <mutex>
#include <stdexcept>
#include <vector>

namespace fireq {
namespace {

TEST(ThreadPool, EveryIndexRunsOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (const int64_t count : {0, 1, 7, 1000, 100001}) {
      std::vector<std::atomic<int>> hits(static_cast<size_t>(count));
      pool.ParallelFor(count, 3, [&](int64_t begin, int64_t end, int thread) {
        ASSERT_LT(thread, threads);
        for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
      });
      for (const auto& hit : hits) ASSERT_EQ(hit.load(), 1);
    }
  }
}

TEST(ThreadPool, ExceptionReachesTheCallerAndThePoolLivesOn) {
  ThreadPool pool(3);
  for (int i = 0; i < 50; ++i) {
    EXPECT_THROW(pool.ParallelFor(100, 1,
                                  [](int64_t begin, int64_t, int) {
                                    if (begin > 20) throw std::runtime_error("body");
                                  }),
                 std::runtime_error);
  }
  std::atomic<int> sum{0};
  pool.ParallelFor(10, 1, [&](int64_t b, int64_t e, int) { sum += static_cast<int>(e - b); });
  EXPECT_EQ(sum.load(), 10);
}

TEST(ThreadPool, NestedLoopsRunInlineOnTheirThread) {
  ThreadPool pool(4);
  std::atomic<int> total{0};
  pool.ParallelFor(16, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i)
      pool.ParallelFor(8, 1, [&](int64_t b, int64_t e, int inner) {
        EXPECT_EQ(inner, thread);
        total += static_cast<int>(e - b);
      });
  });
  EXPECT_EQ(total.load(), 128);
}

// A thread's number is of the pool whose loop it runs: it indexes that pool's scratch.
TEST(ThreadPool, ALoopInsideAnotherPoolsBodyCountsItsOwnThreads) {
  ThreadPool outer(4), inner(2);
  std::barrier all_four(4);
  std::mutex one_at_a_time;
  outer.ParallelFor(4, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      all_four.arrive_and_wait();
      const std::lock_guard lock(one_at_a_time);
      inner.ParallelFor(8, 1, [&](int64_t, int64_t, int thread) { EXPECT_LT(thread, 2); });
    }
  });
}

}  // namespace
}  // namespace fireq
