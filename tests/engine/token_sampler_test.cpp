// Rows whose parameters stay in the backend's memory from step to step.
#include "fireq/engine/token_sampler.h"

#include <gtest/gtest.h>

#include <random>

#include "fireq/backends/cpu/cpu_backend.h"

namespace fireq {
namespace {

TEST(BackendTokenSampler, StepsChooseAsTheirOwnRowsSay) {
  const std::unique_ptr<Backend> backend = MakeCpuBackend({.num_threads = 1});
  std::mt19937 rng(3);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  const Tensor logits = Tensor::Empty(DType::kF32, {3, 200});
  for (int64_t i = 0; i < logits.num_elements(); ++i) logits.as<float>()[i] = normal(rng);
  const SamplingParams greedy;
  const SamplingParams warm{.temperature = 1.5f, .seed = 11};
  const SamplingParams with_logprobs{.num_logprobs = 2};
  BackendTokenSampler kept(*backend);
  int64_t draw = 0;
  for (const SamplingParams* params :
       {&greedy, &greedy, &warm, &warm, &greedy, &with_logprobs, &with_logprobs, &greedy}) {
    for (const int64_t count : {3, 2}) {
      const std::vector<SampleRow> rows(static_cast<size_t>(count), {params, {}, draw++});
      const auto choices = kept.Start(logits.Rows(0, count), rows, {})->Wait();
      const auto expected =
          BackendTokenSampler(*backend).Start(logits.Rows(0, count), rows, {})->Wait();
      ASSERT_EQ(choices.size(), expected.size());
      for (size_t i = 0; i < choices.size(); ++i) {
        EXPECT_EQ(choices[i].id, expected[i].id) << draw;
        EXPECT_EQ(choices[i].logprob, expected[i].logprob) << draw;
        EXPECT_EQ(choices[i].top.size(), expected[i].top.size()) << draw;
      }
    }
  }
}

}  // namespace
}  // namespace fireq
