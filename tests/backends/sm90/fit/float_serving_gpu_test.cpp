// A float model that serves on the GPU, against its forward pass in double precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "fireq/backends/sm90/f32/f32_backend.h"
#include "fireq/engine/engine.h"
#include "fireq/model/model.h"
#include "tests/backends/sm90/needs_hopper.h"
#include "tests/io/io_testing.h"
#include "tests/support/random_ids.h"
#include "tests/support/tiny_llama.h"

namespace fireq::test {
namespace {

// One request alone; then more at once than a decode step may have without being filled up, of
// which one after another ends.
TEST(F32Backend, EveryTokenOfAServedRequestIsOfTheLargestLogit) {
  FIREQ_NEEDS_HOPPER();
  ModelConfig config = TinyConfig();
  config.eos_ids.clear();
  const TinyWeights weights = RandomWeights(config, 7);
  const TemporaryDirectory directory;
  WriteHuggingFace(directory.path(), config, weights);
  const auto gpu = MakeSm90FloatBackend();
  const Model model = LoadModel(*gpu, directory.path());
  std::mt19937 rng(5);
  for (const int count : {1, 20}) {
    Engine engine(*gpu, model,
                  {.runner = {.max_context = 256,
                              .max_tokens = 256,
                              .max_sequences = 32,
                              .memory_bytes = int64_t{64} << 20}});
    std::vector<std::vector<int32_t>> ids(static_cast<size_t>(count));
    std::vector<size_t> prompts;
    for (int i = 0; i < count; ++i) {
      std::vector<int32_t>& all = ids[static_cast<size_t>(i)];
      all = RandomIds(rng, 1 + static_cast<int64_t>(rng() % 100), config.vocab_size);
      prompts.push_back(all.size());
      engine.Submit({.prompt = all, .max_new_tokens = 20 + i}, [&all](const TokenEvent& event) {
        if (event.token) all.push_back(event.token->id);
      });
    }
    while (engine.Step()) {
    }
    for (size_t i = 0; i < ids.size(); ++i) {
      const std::vector<int32_t>& all = ids[i];
      EXPECT_EQ(all.size(), prompts[i] + 20 + i);
      const auto logits = ReferenceLogits(config, weights, all);
      for (size_t at = prompts[i]; at < all.size(); ++at) {
        const std::vector<double>& row = logits[at - 1];
        ASSERT_GT(row[static_cast<size_t>(all[at])], *std::ranges::max_element(row) - 1e-3)
            << "token " << at << " of request " << i << " of " << count;
      }
    }
  }
}

}  // namespace
}  // namespace fireq::test
