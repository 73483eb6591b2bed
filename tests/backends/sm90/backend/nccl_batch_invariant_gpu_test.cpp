// Batch-invariant sums over several GPUs.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "fireq/model/synthetic.h"
#include "tests/backends/sm90/backend/on_gpus.h"
#include "tests/support/random_ids.h"
#include "tests/support/requests_on_ranks.h"

namespace fireq {
namespace {

// Steps of one row, whose norm is a kernel of its own or a linear's; of some, which go through the
// boxes with their norm, on four GPUs whole and by owners; and of many, which go through NCCL where
// bits do not matter.
TEST(NcclRanks, BatchInvariantRequestsAreTheSameAloneAndTogether) {
  if (!TwoGpus()) GTEST_SKIP() << "needs two Hopper GPUs";
  constexpr int64_t kNew = 6;
  ModelConfig config = SyntheticConfig("llama-3-8b");
  config.num_layers = 2;
  config.ffn = 2048;
  config.vocab_size = 512;
  std::mt19937 rng(std::random_device{}());
  std::vector<test::Ids> prompts;
  for (const int64_t length : {1, 2, 40, 90, 170, 600, 5, 130})
    prompts.push_back(test::RandomIds(rng, length, config.vocab_size));
  for (const int size : {kRanks, 4}) {
    if (NumGpus() < size) continue;
    std::vector<test::RequestsOfRank> out(static_cast<size_t>(size));
    OnGpus(size, [&](Backend& backend, const std::shared_ptr<Ranks>& ranks) {
      Model model = MakeSyntheticModel(backend, config, WeightForm::kBf16, 1, ranks->share());
      model.ranks = ranks;
      out[static_cast<size_t>(ranks->share().rank)] =
          test::RunRequests(backend, model,
                            {.max_context = 1024,
                             .max_tokens = 700,
                             .max_sequences = 16,
                             .memory_bytes = int64_t{1} << 30,
                             .max_pages = 64},
                            prompts, kNew);
    });
    test::ExpectTheSameOnAllRanks(out, prompts.size() * kNew);
  }
}

}  // namespace
}  // namespace fireq
