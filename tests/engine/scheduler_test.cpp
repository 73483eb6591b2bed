// Plans alone, without a model: every property on random states, and whole lives of requests.
#include "fireq/engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <numeric>
#include <random>

#include "fireq/formats/kv_page.h"

namespace fireq {
namespace {

int64_t Sum(const BatchPlan& plan) {
  int64_t tokens = 0;
  for (const auto& entry : plan.entries) tokens += entry.num_tokens;
  return tokens;
}

// Everything that scheduler.h promises of one plan.
void CheckPlan(const SchedulerLimits& limits, const std::vector<SequenceView>& running,
               int64_t available, const BatchPlan& plan) {
  ASSERT_LE(Sum(plan), limits.max_tokens);
  int64_t pages = available;
  int64_t first_preempted = static_cast<int64_t>(running.size());
  for (const int64_t i : plan.preempt) {
    ASSERT_EQ(i, --first_preempted) << "the youngest go first, each once";
    pages += running[static_cast<size_t>(i)].exclusive_pages;
  }
  ASSERT_TRUE(running.empty() || first_preempted > 0);
  int64_t last = -1;
  for (const auto& entry : plan.entries) {
    ASSERT_GT(entry.sequence, last);
    ASSERT_LT(entry.sequence, first_preempted);
    ASSERT_GT(entry.num_tokens, 0);
    const SequenceView& s = running[static_cast<size_t>(entry.sequence)];
    ASSERT_LE(s.num_computed + entry.num_tokens, s.num_tokens);
    pages -= std::max<int64_t>(0, PagesFor(s.num_computed + entry.num_tokens) - s.num_pages);
    last = entry.sequence;
  }
  ASSERT_GE(pages, 0);
}

TEST(Plan, DecodeGoesFirstAndPromptsShareTheRest) {
  const std::vector<SequenceView> running = {
      {100, 0, 0, 0}, {40, 39, 1, 1}, {300, 64, 1, 1}, {65, 64, 1, 1}};
  const BatchPlan plan = Plan({.max_tokens = 150, .max_sequences = 8}, running, 100);
  ASSERT_EQ(plan.entries.size(), 4u);
  EXPECT_EQ(plan.entries[0].num_tokens, 100);
  EXPECT_EQ(plan.entries[1].num_tokens, 1);
  EXPECT_EQ(plan.entries[2].num_tokens, 48);
  EXPECT_EQ(plan.entries[3].num_tokens, 1);
  EXPECT_TRUE(plan.preempt.empty());
}

TEST(Plan, DecodePreemptsTheYoungestPromptsTakeWhatIsFree) {
  const SchedulerLimits limits{.max_tokens = 100, .max_sequences = 8};
  // The first needs a page, none is free; the last gives two.
  BatchPlan plan =
      Plan(limits, std::vector<SequenceView>{{65, 64, 1, 1}, {30, 0, 0, 0}, {128, 127, 2, 2}}, 0);
  EXPECT_EQ(plan.preempt, std::vector<int64_t>{2});
  ASSERT_EQ(plan.entries.size(), 2u);
  EXPECT_EQ(plan.entries[1].num_tokens, 30);
  // A prompt never preempts while others move.
  plan = Plan(limits, std::vector<SequenceView>{{90, 64, 1, 1}, {60, 59, 1, 1}}, 0);
  EXPECT_TRUE(plan.preempt.empty());
  ASSERT_EQ(plan.entries.size(), 1u);
  EXPECT_EQ(plan.entries[0].sequence, 1);
  // But prompts alone may not stand still.
  plan = Plan(limits, std::vector<SequenceView>{{90, 64, 1, 1}, {120, 64, 1, 1}}, 0);
  EXPECT_EQ(plan.preempt, std::vector<int64_t>{1});
}

TEST(MayJoin, PlaceWorkOfTheOthersAndGrowthAreCounted) {
  const SchedulerLimits limits{.max_tokens = 100, .max_sequences = 3};
  const SequenceView candidate{65, 0, 0, 0};  // two pages
  EXPECT_TRUE(MayJoin(limits, {}, candidate, 0)) << "alone anything may";
  // Two pages of its own and one of growth for two sequences.
  std::vector<SequenceView> running = {{64, 63, 1, 1}};
  EXPECT_FALSE(MayJoin(limits, running, candidate, 2));
  EXPECT_TRUE(MayJoin(limits, running, candidate, 3));
  // The other's prompt still wants three pages.
  running = {{200, 64, 1, 1}};
  EXPECT_FALSE(MayJoin(limits, running, candidate, 5));
  EXPECT_TRUE(MayJoin(limits, running, candidate, 6));
  // What the candidate has of the prefix cache it need not take.
  EXPECT_TRUE(MayJoin(limits, running, {65, 64, 1, 0}, 5));
  // Three sequences: two pages of growth; a fourth has no place.
  running.push_back({64, 63, 1, 1});
  EXPECT_FALSE(MayJoin(limits, running, candidate, 6));
  EXPECT_TRUE(MayJoin(limits, running, candidate, 7));
  running.push_back({64, 63, 1, 1});
  EXPECT_FALSE(MayJoin(limits, running, candidate, 100));
}

TEST(Plan, RandomStatesKeepEveryPromise) {
  std::mt19937 rng(3);
  const auto up_to = [&](int64_t n) {
    return static_cast<int64_t>(rng() % static_cast<uint64_t>(n + 1));
  };
  int preempting = 0;
  for (int round = 0; round < 100000; ++round) {
    const SchedulerLimits limits{.max_tokens = 1 + up_to(200), .max_sequences = 8};
    std::vector<SequenceView> running(static_cast<size_t>(up_to(8)));
    for (SequenceView& s : running) {
      s.num_computed = rng() % 2 == 0 ? 64 * up_to(4) : up_to(300);  // at a page's end or not
      s.num_tokens = s.num_computed + (rng() % 2 == 0 ? 1 : 1 + up_to(300));
      s.num_pages = PagesFor(s.num_computed);
      s.exclusive_pages = up_to(s.num_pages);
    }
    const int64_t available = up_to(3);
    const BatchPlan plan = Plan(limits, running, available);
    ASSERT_NO_FATAL_FAILURE(CheckPlan(limits, running, available, plan));
    if (running.size() > 1) {
      ASSERT_FALSE(plan.entries.empty() && plan.preempt.empty());
    }
    preempting += !plan.preempt.empty();
  }
  EXPECT_GT(preempting, 10000);
}

// Requests of random lengths through Plan and MayJoin in a small pool, with the engine's moves.
TEST(Plan, EveryRequestEndsOnceAndPagesAreConserved) {
  std::mt19937 rng(5);
  struct Request {
    int64_t prompt, output;
    SequenceView view;
    int done = 0;
  };
  for (int world = 0; world < 200; ++world) {
    const int64_t pool = 3 + static_cast<int64_t>(rng() % 8);
    const SchedulerLimits limits{.max_tokens = 4 + static_cast<int64_t>(rng() % 100),
                                 .max_sequences = 4};
    std::vector<Request> requests(30);
    std::deque<size_t> waiting;
    std::vector<size_t> running;
    for (size_t i = 0; i < requests.size(); ++i) {
      requests[i].prompt = 1 + static_cast<int64_t>(rng() % static_cast<uint64_t>(pool * 40));
      requests[i].output = 1 + static_cast<int64_t>(rng() % 60);
      requests[i].view.num_tokens = requests[i].prompt;
      waiting.push_back(i);
    }
    int64_t free_pages = pool;
    for (int step = 0; !waiting.empty() || !running.empty(); ++step) {
      ASSERT_LT(step, 20000) << "no end in sight";
      std::vector<SequenceView> views;
      for (const size_t i : running) views.push_back(requests[i].view);
      while (!waiting.empty() &&
             MayJoin(limits, views, requests[waiting.front()].view, free_pages)) {
        views.push_back(requests[waiting.front()].view);
        running.push_back(waiting.front());
        waiting.pop_front();
      }
      ASSERT_LE(static_cast<int64_t>(running.size()), limits.max_sequences);
      const BatchPlan plan = Plan(limits, views, free_pages);
      ASSERT_NO_FATAL_FAILURE(CheckPlan(limits, views, free_pages, plan));
      for (size_t k = 0; k < plan.preempt.size(); ++k) {
        SequenceView& view = requests[running.back()].view;
        free_pages += view.num_pages;
        view = {view.num_tokens, 0, 0, 0};
        waiting.push_front(running.back());
        running.pop_back();
      }
      for (const auto& entry : plan.entries) {
        Request& request = requests[running[static_cast<size_t>(entry.sequence)]];
        SequenceView& view = request.view;
        view.num_computed += entry.num_tokens;
        free_pages -= PagesFor(view.num_computed) - view.num_pages;
        view.num_pages = view.exclusive_pages = PagesFor(view.num_computed);
        ASSERT_GE(free_pages, 0);
        if (view.num_computed < view.num_tokens) continue;
        const bool full = view.num_computed == pool * kTokensPerPage;
        if (++view.num_tokens == request.prompt + request.output || full) {
          ++request.done;
          free_pages += view.num_pages;
        }
      }
      std::erase_if(running, [&](size_t i) { return requests[i].done > 0; });
    }
    EXPECT_EQ(free_pages, pool);
    for (const Request& request : requests) EXPECT_EQ(request.done, 1);
  }
}

}  // namespace
}  // namespace fireq
