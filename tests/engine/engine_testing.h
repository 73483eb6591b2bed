// What the tests of the engine share: a model, requests, and what came out.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/engine/engine.h"
#include "fireq/engine/generate.h"
#include "tests/support/random_ids.h"
#include "tests/support/tiny_quantized.h"

namespace fireq::test {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr int kSanitizerDivisor = 10;
#else
inline constexpr int kSanitizerDivisor = 1;
#endif

// A tiny quantised model on one thread of the CPU.
struct TinyServing {
  explicit TinyServing(uint64_t seed = 1)
      : backend(MakeCpuBackend({.num_threads = 1})),
        model(RandomQuantisedModel(*backend, TiniestConfig(), seed)) {}

  // Batch-invariant, with `num_pages` pages.
  EngineOptions Options(int64_t num_pages, RunAhead run_ahead = RunAhead::kNever) const {
    EngineOptions options;
    options.run_ahead = run_ahead;
    options.runner = {.max_tokens = 96,
                      .max_sequences = 24,
                      .memory_bytes = int64_t{64} << 20,
                      .max_pages = num_pages,
                      .products = Products::kTable,
                      .reduction = Reduction::kBatchInvariant};
    return options;
  }

  // The same request on a session of its own.
  std::vector<int32_t> Alone(const Request& request) const {
    Session session(*backend, model,
                    {.products = Products::kTable, .reduction = Reduction::kBatchInvariant});
    return Generate(session, request.prompt,
                    {request.max_new_tokens, request.sampling, request.stop_ids})
        .ids;
  }

  std::unique_ptr<Backend> backend;
  Model model;
};

// Everything that sinks were told, by request. Thread-safe.
class Outcomes {
 public:
  struct Outcome {
    std::vector<int32_t> ids;
    std::vector<Finish> finishes;
    int late_events = 0;  // after the finish
  };

  EventSink Sink() {
    return [this](const TokenEvent& event) {
      const std::lock_guard lock(mutex_);
      Outcome& outcome = by_id_[event.request];
      outcome.late_events += !outcome.finishes.empty();
      if (event.token) outcome.ids.push_back(event.token->id);
      if (event.finish) outcome.finishes.push_back(*event.finish);
    };
  }

  const Outcome& operator[](RequestId id) { return by_id_[id]; }
  size_t size() const { return by_id_.size(); }

  // What every accepted request must have, whatever happened.
  void CheckEndedOnce(RequestId id) {
    const Outcome& outcome = by_id_[id];
    ASSERT_EQ(outcome.finishes.size(), 1u) << "request " << id;
    ASSERT_EQ(outcome.late_events, 0) << "request " << id;
    ASSERT_EQ(outcome.finishes[0].output_tokens, static_cast<int64_t>(outcome.ids.size()));
  }

 private:
  std::mutex mutex_;
  std::map<RequestId, Outcome> by_id_;
};

inline std::vector<int32_t> RandomIds(std::mt19937& rng, int64_t count) {
  return RandomIds(rng, count, 61);  // known to every model of these tests
}

// Every page is free or kept for later, and what was counted in has been counted out.
inline void CheckAllGivenBack(const Engine& engine) {
  const EngineMetrics metrics = engine.metrics();
  EXPECT_EQ(metrics.num_pages_in_use, 0);
  EXPECT_EQ(metrics.num_running + metrics.num_waiting, 0);
  int64_t finished = 0;
  for (const int64_t count : metrics.num_finished) finished += count;
  EXPECT_EQ(finished, metrics.num_accepted);
}

}  // namespace fireq::test
