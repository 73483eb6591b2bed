// Tokens chosen on the device against the host's Sampler, over random logits and parameters.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/backends/sm90/backend/sm90_backend.h"
#include "fireq/engine/token_sampler.h"
#include "fireq/formats/f16.h"
#include "tests/backends/sm90/needs_hopper.h"

namespace fireq {
namespace {

class DeviceSampling : public testing::Test {
 protected:
  void SetUp() override {
    FIREQ_NEEDS_HOPPER();
    gpu_ = MakeSm90Backend();
    cpu_ = MakeCpuBackend({.num_threads = 4});
  }

  Tensor Logits(int64_t rows, int64_t vocab, float spread) {
    std::normal_distribution<float> normal(0.0f, spread);
    Tensor out = Tensor::Empty(DType::kF32, {rows, vocab});
    for (int64_t i = 0; i < out.num_elements(); ++i) out.as<float>()[i] = normal(rng_);
    return out;
  }

  // Choices of both for the same rows.
  struct Pair {
    std::vector<TokenChoice> cpu, gpu;
  };
  Pair Choose(const Tensor& logits, const std::vector<SampleRow>& rows) {
    return {BackendTokenSampler(*cpu_).Start(logits, rows, {})->Wait(),
            BackendTokenSampler(*gpu_).Start(gpu_->Upload(logits), rows, {})->Wait()};
  }

  std::mt19937 rng_{7};
  std::unique_ptr<Backend> cpu_, gpu_;
};

TEST_F(DeviceSampling, GreedyAndItsLogprobsAreTheHosts) {
  for (const int64_t vocab : {1, 61, 512, 49152, 128256}) {
    const Tensor logits = Logits(5, vocab, 3.0f);
    logits.as<float>()[0] = NAN;
    if (vocab > 10) {  // ties go to the first
      logits.as<float>()[vocab + 7] = logits.as<float>()[vocab + 3] = 100.0f;
      for (int64_t i = 0; i < vocab; ++i) logits.as<float>()[2 * vocab + i] = -INFINITY;
      for (int64_t i = 0; i < vocab; ++i) logits.as<float>()[3 * vocab + i] = NAN;
    }
    std::vector<SamplingParams> params(5);
    for (int i = 0; i < 5; ++i) params[static_cast<size_t>(i)].num_logprobs = 3 * i - 1;
    std::vector<SampleRow> rows;
    for (const SamplingParams& p : params) rows.push_back({&p, {}, 0});
    const Pair pair = Choose(logits, rows);
    for (size_t r = 0; r < rows.size(); ++r) {
      EXPECT_EQ(pair.cpu[r].id, pair.gpu[r].id) << "row " << r << " of " << vocab;
      if (r == 2) continue;  // softmax of minus infinities
      EXPECT_NEAR(pair.cpu[r].logprob, pair.gpu[r].logprob, 1e-5);
      ASSERT_EQ(pair.cpu[r].top.size(), pair.gpu[r].top.size());
      for (size_t i = 0; i < pair.cpu[r].top.size(); ++i) {
        EXPECT_EQ(pair.cpu[r].top[i].id, pair.gpu[r].top[i].id);
        EXPECT_NEAR(pair.cpu[r].top[i].logprob, pair.gpu[r].top[i].logprob, 1e-5);
      }
    }
  }
}

// The same choices, logprobs and draws as of their values in FP32, bit for bit.
TEST_F(DeviceSampling, HalfLogitsAreTheirValues) {
  for (const int64_t vocab : {1, 61, 1004, 49152, 128256}) {
    for (const int64_t count : {3, 40, 140}) {  // clusters, and a CTA a row
      const Tensor wide = Tensor::Empty(DType::kF32, {count, vocab});
      const Tensor halves = Tensor::Empty(DType::kF16, {count, vocab});
      for (int64_t i = 0; i < wide.num_elements(); ++i) {
        constexpr uint16_t kNan = 0x7E00, kEighth = 0x3000, kSix = 0x4600;
        const auto bits = static_cast<uint16_t>(kEighth + rng_() % (kSix - kEighth));
        const auto signed_bits = static_cast<uint16_t>(bits | rng_() % 2 << 15);
        halves.as<uint16_t>()[i] = i % 977 == 5 ? kNan : signed_bits;
        wide.as<float>()[i] = F16ToFloat(halves.as<uint16_t>()[i]);
      }
      std::vector<SamplingParams> params(static_cast<size_t>(count));
      std::vector<SampleRow> rows;
      for (size_t r = 0; r < params.size(); ++r) {
        if (r % 3 > 0) params[r].temperature = 0.5f + 0.01f * static_cast<float>(r);
        if (r % 3 == 2) params[r].top_k = 40;
        params[r].num_logprobs = static_cast<int>(r % 3);
        params[r].seed = rng_();
        rows.push_back({&params[r], {}, 0});
      }
      const auto choose = [&](const Tensor& logits) {
        return BackendTokenSampler(*gpu_).Start(gpu_->Upload(logits), rows, {})->Wait();
      };
      const std::vector<TokenChoice> expected = choose(wide), got = choose(halves);
      for (size_t r = 0; r < rows.size(); ++r) {
        EXPECT_EQ(got[r].id, expected[r].id) << "row " << r << " of " << vocab;
        if (got[r].id < 0) continue;
        EXPECT_EQ(got[r].logprob, expected[r].logprob);
        ASSERT_EQ(got[r].top.size(), expected[r].top.size());
        for (size_t i = 0; i < got[r].top.size(); ++i) {
          EXPECT_EQ(got[r].top[i].id, expected[r].top[i].id);
          EXPECT_EQ(got[r].top[i].logprob, expected[r].top[i].logprob);
        }
      }
    }
  }
}

// A draw may part from the host's only where it falls within rounding of the border of two tokens:
// with thousands of draws, hardly ever.
TEST_F(DeviceSampling, RandomDrawsAreTheHosts) {
  int64_t draws = 0, different = 0;
  for (const int64_t vocab : {2, 61, 1000, 32000, 128256}) {
    for (int trial = 0; trial < 8; ++trial) {
      constexpr int64_t kRows[] = {140, 12, 40, 70};  // a CTA a row, and clusters
      const int64_t count = kRows[trial % 4];
      const Tensor logits = Logits(count, vocab, std::exp2(static_cast<float>(trial) - 3.0f));
      if (trial == 0)  // all equal: the draw decides by id alone
        for (int64_t i = 0; i < logits.num_elements(); ++i) logits.as<float>()[i] = 0.5f;
      if (trial == 1)  // many ties
        for (int64_t i = 0; i < logits.num_elements(); ++i)
          logits.as<float>()[i] = std::round(8.0f * logits.as<float>()[i]) - 4.0f;
      std::vector<SamplingParams> params(static_cast<size_t>(count));
      std::vector<std::vector<int32_t>> histories(params.size());
      std::vector<SampleRow> rows;
      for (size_t r = 0; r < params.size(); ++r) {
        SamplingParams& p = params[r];
        p.temperature = 0.2f + 0.1f * static_cast<float>(rng_() % 20);
        if (rng_() % 2 == 0) p.top_k = 1 + static_cast<int64_t>(rng_() % 200);
        if (rng_() % 2 == 0) p.top_p = 0.05f + 0.05f * static_cast<float>(rng_() % 19);
        if (rng_() % 3 == 0) p.min_p = 0.02f * static_cast<float>(rng_() % 20);
        if (rng_() % 2 == 0) p.repetition_penalty = 1.3f;
        p.seed = rng_();
        for (int i = 0; i < 30; ++i)
          histories[r].push_back(static_cast<int32_t>(rng_() % static_cast<uint64_t>(vocab)));
        rows.push_back({&p, histories[r], static_cast<int64_t>(rng_() % 1000)});
      }
      const Pair pair = Choose(logits, rows);
      for (size_t r = 0; r < rows.size(); ++r) {
        ++draws;
        different += pair.cpu[r].id != pair.gpu[r].id;
        EXPECT_GE(pair.gpu[r].id, 0);
        EXPECT_LT(pair.gpu[r].id, vocab);
      }
    }
  }
  EXPECT_LE(different, draws / 200) << different << " of " << draws;
}

}  // namespace
}  // namespace fireq
