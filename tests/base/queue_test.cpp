#include "fireq/base/queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

namespace fireq {
namespace {

TEST(BoundedQueue, KeepsOrderAndRefusesWhatDoesNotFit) {
  BoundedQueue<std::unique_ptr<int>> queue(2);
  EXPECT_FALSE(queue.TryPop().has_value());
  EXPECT_TRUE(queue.TryPush(std::make_unique<int>(1)));
  EXPECT_TRUE(queue.TryPush(std::make_unique<int>(2)));
  auto third = std::make_unique<int>(3);
  EXPECT_FALSE(queue.TryPush(std::move(third)));
  ASSERT_NE(third, nullptr);  // still the caller's
  EXPECT_EQ(**queue.TryPop(), 1);
  EXPECT_TRUE(queue.TryPush(std::move(third)));
  EXPECT_EQ(**queue.TryPop(), 2);
  EXPECT_EQ(**queue.TryPop(), 3);
  EXPECT_THROW(BoundedQueue<int>(0), Error);
}

TEST(BoundedQueue, ClosedLetsOutWhatIsInsideAndWakesWhoWaits) {
  BoundedQueue<int> queue(4);
  EXPECT_TRUE(queue.TryPush(7));
  queue.Close();
  EXPECT_FALSE(queue.TryPush(8));
  EXPECT_TRUE(queue.WaitForItem());
  EXPECT_EQ(queue.TryPop(), 7);
  EXPECT_FALSE(queue.WaitForItem());

  BoundedQueue<int> empty(1);
  std::jthread closer([&] { empty.Close(); });
  EXPECT_FALSE(empty.WaitForItem());
}

TEST(BoundedQueue, ManyThreadsLoseAndDoubleNothing) {
  constexpr int kEach = 2000;
  BoundedQueue<int> queue(16);
  std::vector<int> seen(3 * kEach, 0);
  {
    std::vector<std::jthread> producers;
    for (int p = 0; p < 3; ++p)
      producers.emplace_back([&, p] {
        for (int i = 0; i < kEach; ++i)
          while (!queue.TryPush(p * kEach + i)) std::this_thread::yield();
      });
    for (int i = 0; i < 3 * kEach; ++i) {
      ASSERT_TRUE(queue.WaitForItem());
      ++seen[static_cast<size_t>(*queue.TryPop())];
    }
  }
  EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), 3 * kEach);
}

}  // namespace
}  // namespace fireq
