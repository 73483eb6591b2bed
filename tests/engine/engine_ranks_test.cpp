// Engines of several ranks.
#include <gtest/gtest.h>

#include <random>
#include <thread>
#include <vector>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/backends/cpu/thread_ranks.h"
#include "fireq/model/synthetic.h"
#include "tests/support/random_ids.h"
#include "tests/support/requests_on_ranks.h"

namespace fireq::test {
namespace {

TEST(EngineRanks, BatchInvariantRequestsAreTheSameAloneAndTogether) {
  constexpr int64_t kNew = 3;
  ModelConfig config = SyntheticConfig("tiny");
  config.num_heads = 8;
  config.num_kv_heads = 4;
  config.ffn = 512;
  std::mt19937 rng(17);
  std::vector<Ids> prompts;
  for (const int64_t length : {1, 2, 40, 70, 5})
    prompts.push_back(RandomIds(rng, length, config.vocab_size));
  for (const size_t size : {2, 4}) {
    std::vector<RequestsOfRank> out(size);
    const auto ranks = MakeThreadRanks(static_cast<int>(size));
    std::vector<std::jthread> threads;
    for (size_t r = 0; r < size; ++r)
      threads.emplace_back([&, r] {
        const auto backend = MakeCpuBackend({.num_threads = 1});
        Model model = MakeSyntheticModel(*backend, config, WeightForm::kBf16, 1, ranks[r]->share());
        model.ranks = ranks[r];
        out[r] = RunRequests(*backend, model,
                             {.max_context = 256,
                              .max_tokens = 48,
                              .max_sequences = 8,
                              .memory_bytes = int64_t{64} << 20,
                              .max_pages = 64},
                             prompts, kNew);
      });
    threads.clear();
    ExpectTheSameOnAllRanks(out, prompts.size() * kNew);
  }
}

}  // namespace
}  // namespace fireq::test
