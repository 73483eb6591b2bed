// Thousands of requests through a cache that is far too small, cancelled at random; and threads.
#include <algorithm>
#include <atomic>
#include <thread>

#include "tests/engine/engine_testing.h"

namespace fireq::test {
namespace {

// A request that many of the sent ones are: they differ in how much of the output they want, and
// what a session alone says to the longest is what it says to all.
struct Base {
  Request request;
  std::vector<int32_t> alone;
};

std::vector<Base> MakeBases(const TinyServing& serving, int count) {
  std::mt19937 rng(21);
  const std::vector<int32_t> system = RandomIds(rng, 130);  // two pages that some of them share
  std::vector<Base> bases;
  for (int i = 0; i < count; ++i) {
    // The long ones outgrow what joining sets aside for them.
    Request request{.max_new_tokens = i % 3 == 0 ? 12 : 160};
    if (i % 4 == 0) request.prompt = system;
    const std::vector<int32_t> own = RandomIds(rng, 1 + static_cast<int64_t>(rng() % 60));
    request.prompt.insert(request.prompt.end(), own.begin(), own.end());
    if (i % 2 == 0) request.sampling = {.temperature = 1.0f, .top_k = 20, .seed = rng()};
    if (i % 5 == 0) request.stop_ids = {static_cast<int64_t>(rng() % 61)};
    std::vector<int32_t> alone = serving.Alone(request);
    bases.push_back({std::move(request), std::move(alone)});
  }
  return bases;
}

class EngineStressSteps : public testing::TestWithParam<RunAhead> {};
INSTANTIATE_TEST_SUITE_P(RunAhead, EngineStressSteps,
                         testing::Values(RunAhead::kNever, RunAhead::kAlways));

TEST_P(EngineStressSteps, TenThousandRequestsEndOnceAndEqualThemselvesAlone) {
  const TinyServing serving;
  const std::vector<Base> bases = MakeBases(serving, 200 / kSanitizerDivisor);
  EngineOptions options =
      serving.Options(9, GetParam());  // for up to 24 sequences of up to 5 pages
  options.queue_capacity = 64;
  Engine engine(*serving.backend, serving.model, options);
  Outcomes outcomes;
  std::mt19937 rng(22);
  struct Sent {
    RequestHandle handle;
    const Base* base;
    int64_t wanted;
    bool cancelled;
  };
  std::vector<Sent> sent;
  const size_t total = 10000 / kSanitizerDivisor;
  bool busy = true;
  while (busy || sent.size() < total) {
    for (unsigned burst = rng() % 8; burst > 0 && sent.size() < total; --burst) {
      const Base& base = bases[rng() % bases.size()];
      Request request = base.request;
      request.max_new_tokens =
          1 + static_cast<int64_t>(rng() % static_cast<uint64_t>(request.max_new_tokens));
      const int64_t wanted = request.max_new_tokens;
      const auto handle = engine.Submit(std::move(request), outcomes.Sink());
      if (handle) sent.push_back({*handle, &base, wanted, false});
    }
    if (!sent.empty() && rng() % 40 == 0) {
      Sent& victim = sent[sent.size() - 1 - rng() % std::min<size_t>(sent.size(), 100)];
      victim.cancelled = true;
      victim.handle.Cancel();
    }
    busy = engine.Step();
  }

  ASSERT_EQ(sent.size(), total);
  ASSERT_EQ(outcomes.size(), total);
  size_t completed = 0;
  for (const Sent& s : sent) {
    ASSERT_NO_FATAL_FAILURE(outcomes.CheckEndedOnce(s.handle.id()));
    const auto& [ids, finishes, late] = outcomes[s.handle.id()];
    const size_t whole = std::min(s.base->alone.size(), static_cast<size_t>(s.wanted));
    if (finishes[0].reason == FinishReason::kCancelled) {
      ASSERT_TRUE(s.cancelled);
      ASSERT_LE(ids.size(), whole);
    } else {
      ASSERT_TRUE(finishes[0].reason == FinishReason::kLength ||
                  finishes[0].reason == FinishReason::kStopId);
      ASSERT_EQ(ids.size(), whole);
      ++completed;
    }
    ASSERT_TRUE(std::equal(ids.begin(), ids.end(), s.base->alone.begin()));
  }
  const EngineMetrics metrics = engine.metrics();
  EXPECT_GT(completed, total / 2);
  EXPECT_GT(metrics.num_finished[static_cast<size_t>(FinishReason::kCancelled)],
            static_cast<int64_t>(total / 50));
  EXPECT_GT(metrics.num_preempted, static_cast<int64_t>(total / 50));
  EXPECT_GT(metrics.cached_tokens, 0);
  CheckAllGivenBack(engine);
  RecordProperty("preempted", std::to_string(metrics.num_preempted));
  RecordProperty("cached_tokens", std::to_string(metrics.cached_tokens));
}

// Submit and cancel from three threads while a fourth steps; then stop in the midst of it.
TEST(EngineStress, ThreadsSubmitAndCancelWhileTheEngineRuns) {
  const TinyServing serving;
  EngineOptions options = serving.Options(14, RunAhead::kAlways);
  options.queue_capacity = 8;
  Engine engine(*serving.backend, serving.model, options);
  Outcomes outcomes;
  std::mutex mutex;
  std::vector<RequestId> accepted;
  std::jthread stepper([&](const std::stop_token& stop) { engine.Run(stop); });
  {
    std::vector<std::jthread> clients;
    for (uint32_t c = 0; c < 3; ++c)
      clients.emplace_back([&, c] {
        std::mt19937 rng(c);
        for (int i = 0; i < 600 / kSanitizerDivisor; ++i) {
          Request request{.prompt = RandomIds(rng, 1 + static_cast<int64_t>(rng() % 100)),
                          .max_new_tokens = 1 + static_cast<int64_t>(rng() % 20)};
          std::optional<RequestHandle> handle;
          while (!(handle = engine.Submit(request, outcomes.Sink())))
            std::this_thread::sleep_for(std::chrono::microseconds(100));
          if (rng() % 3 == 0) handle->Cancel();
          if (rng() % 8 == 0) {
            EXPECT_LE(engine.metrics().num_pages_in_use, 14);
          }
          const std::lock_guard lock(mutex);
          accepted.push_back(handle->id());
        }
      });
  }
  stepper.request_stop();
  stepper.join();
  EXPECT_FALSE(engine.Submit({.prompt = {1}}, outcomes.Sink()).has_value());
  ASSERT_EQ(accepted.size(), 3u * (600 / kSanitizerDivisor));
  ASSERT_EQ(outcomes.size(), accepted.size());
  for (const RequestId id : accepted) ASSERT_NO_FATAL_FAILURE(outcomes.CheckEndedOnce(id));
  CheckAllGivenBack(engine);
}

TEST(EngineStress, IdleEngineWakesForWork) {
  const TinyServing serving;
  Engine engine(*serving.backend, serving.model, serving.Options(14));
  std::atomic<int> finished{0};
  std::jthread stepper([&](const std::stop_token& stop) { engine.Run(stop); });
  for (int i = 1; i <= 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    ASSERT_TRUE(engine
                    .Submit({.prompt = {1, 2}, .max_new_tokens = 3},
                            [&](const TokenEvent& event) {
                              if (event.finish) ++finished;
                              finished.notify_all();
                            })
                    .has_value());
    while (finished.load() < i) finished.wait(i - 1);
  }
}

}  // namespace
}  // namespace fireq::test
