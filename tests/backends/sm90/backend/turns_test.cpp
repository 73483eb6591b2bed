#include "fireq/backends/sm90/backend/turns.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <stdexcept>
#include <thread>
#include <vector>

namespace fireq::sm90 {
namespace {

struct FakeParty {
  void Follow(const FakeParty& before) {
    if (fails) throw std::runtime_error("no event");
    followed.push_back(&before);
  }
  void Finish() noexcept { ++finished; }

  std::vector<const FakeParty*> followed;
  int finished = 0;
  bool fails = false;
};
using FakeTurns = Turns<FakeParty>;

// Ends if another thread gets a turn.
void TakeElsewhere(FakeTurns& turns) {
  FakeParty other;
  std::jthread([&] { const HeldTurn turn = turns.Take(other); }).join();
  turns.Leave(other);
}

TEST(Turns, APartyFollowsTheOneThatHadTheTurnBeforeAndNotItself) {
  FakeTurns turns;
  FakeParty a, b;
  for (FakeParty* party : {&a, &a, &a, &b, &b, &a}) const HeldTurn turn = turns.Take(*party);
  EXPECT_EQ(a.followed, std::vector<const FakeParty*>{&b});
  EXPECT_EQ(b.followed, std::vector<const FakeParty*>{&a});
}

TEST(Turns, OthersWaitForAllTurnsOfAThread) {
  FakeTurns turns;
  FakeParty a, b;
  std::atomic<bool> taken = false;
  std::optional<std::jthread> other;
  {
    const HeldTurn outer = turns.Take(a);
    { const HeldTurn inner = turns.Take(a); }
    other.emplace([&] {
      const HeldTurn turn = turns.Take(b);
      taken = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_FALSE(taken);
  }
  other.reset();
  EXPECT_TRUE(taken);
  EXPECT_EQ(b.followed, std::vector<const FakeParty*>{&a});
}

TEST(Turns, ATurnThatIsGivenBackEarlyIsFree) {
  FakeTurns turns;
  FakeParty a;
  turns.Take(a).unlock();
  TakeElsewhere(turns);
}

// Whoever leaves may go away: nobody follows it later.
TEST(Turns, WhoLeavesFinishesIfNobodyFollowsIt) {
  FakeTurns turns;
  FakeParty a, b, c;
  { const HeldTurn turn = turns.Take(a); }
  { const HeldTurn turn = turns.Take(b); }
  turns.Leave(a);
  EXPECT_EQ(a.finished, 0);
  turns.Leave(b);
  EXPECT_EQ(b.finished, 1);
  { const HeldTurn turn = turns.Take(c); }
  EXPECT_TRUE(c.followed.empty());
}

TEST(Turns, WhoCannotFollowHasNoTurn) {
  FakeTurns turns;
  FakeParty a, b, c;
  { const HeldTurn turn = turns.Take(a); }
  b.fails = true;
  EXPECT_THROW(static_cast<void>(turns.Take(b)), std::runtime_error);
  { const HeldTurn turn = turns.Take(c); }
  EXPECT_EQ(c.followed, std::vector<const FakeParty*>{&a});
  TakeElsewhere(turns);
}

// The order in which work is queued is the order of turns, and each change of it is followed once.
TEST(Turns, ManyThreadsMakeOneOrder) {
  constexpr int kThreads = 4, kTurns = 5000;
  FakeTurns turns;
  std::vector<FakeParty> parties(kThreads);
  std::vector<const FakeParty*> order;  // guarded by the turn
  std::vector<std::jthread> threads;
  for (FakeParty& party : parties)
    threads.emplace_back([&] {
      for (int i = 0; i < kTurns; ++i) {
        const HeldTurn turn = turns.Take(party);
        order.push_back(&party);
      }
    });
  threads.clear();
  ASSERT_EQ(order.size(), static_cast<size_t>(kThreads) * kTurns);
  std::vector<std::vector<const FakeParty*>> expected(kThreads);
  for (size_t i = 1; i < order.size(); ++i)
    if (order[i] != order[i - 1])
      expected[static_cast<size_t>(order[i] - parties.data())].push_back(order[i - 1]);
  for (size_t p = 0; p < parties.size(); ++p) EXPECT_EQ(parties[p].followed, expected[p]) << p;
}

}  // namespace
}  // namespace fireq::sm90
