// Sums over GPUs, and a model that two of them share.
#include "fireq/backends/sm90/backend/nccl_ranks.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <random>
#include <thread>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/backends/cpu/thread_ranks.h"
#include "fireq/backends/sm90/backend/sm90_backend.h"
#include "fireq/engine/session.h"
#include "fireq/formats/bf16.h"
#include "fireq/model/synthetic.h"

namespace fireq {
namespace {

constexpr int kRanks = 2;

// body(rank, backend) in threads, one a GPU, once the GPUs are connected.
template <class Body>
void OnGpus(const Body& body) {
  std::vector<std::unique_ptr<Backend>> owned(kRanks);
  std::vector<Backend*> backends(kRanks);
  for (int r = 0; r < kRanks; ++r) {
    owned[static_cast<size_t>(r)] = MakeSm90Backend(r);
    backends[static_cast<size_t>(r)] = owned[static_cast<size_t>(r)].get();
  }
  const auto ranks = MakeNcclRanks(backends);
  std::vector<std::jthread> threads;
  for (int r = 0; r < kRanks; ++r)
    threads.emplace_back([&, r] {
      const auto own = MakeSm90Backend(r);  // makes this thread's device current
      body(*backends[static_cast<size_t>(r)], ranks[static_cast<size_t>(r)]);
    });
}

bool TwoGpus() {
  try {
    MakeSm90Backend(1);
    return true;
  } catch (const Error&) {
    return false;
  }
}

TEST(NcclRanks, SumsAreTheSumsCalledAndRecorded) {
  if (!TwoGpus()) GTEST_SKIP() << "needs two Hopper GPUs";
  constexpr int64_t kCount = 3 * 4096 + 8;
  std::vector<Tensor> parts;
  std::mt19937 rng(std::random_device{}());
  std::normal_distribution<float> normal;
  for (int r = 0; r < kRanks; ++r) {
    parts.push_back(Tensor::Empty(DType::kBF16, {kCount}));
    for (int64_t i = 0; i < kCount; ++i) parts.back().as<bf16_t>()[i] = FloatToBf16(normal(rng));
  }
  OnGpus([&](Backend& backend, const std::shared_ptr<Ranks>& ranks) {
    const Tensor& part = parts[static_cast<size_t>(ranks->share().rank)];
    const Tensor values = backend.Upload(part);
    const auto check = [&] {
      const Tensor sum = backend.Download(values);
      for (int64_t i = 0; i < kCount; ++i) {
        const float expected =
            Bf16ToFloat(parts[0].as<bf16_t>()[i]) + Bf16ToFloat(parts[1].as<bf16_t>()[i]);
        ASSERT_EQ(sum.as<bf16_t>()[i], FloatToBf16(expected)) << i;
      }
    };
    ranks->Sum(values);
    check();
    const auto recording = backend.Record([&] { ranks->Sum(values); });
    for (int run = 0; run < 3; ++run) {
      backend.UploadTo(part, values);
      recording->Run();
      check();
    }
  });
}

TEST(NcclRanks, ARankThatFailsDoesNotLeaveTheOtherWaiting) {
  if (!TwoGpus()) GTEST_SKIP() << "needs two Hopper GPUs";
  OnGpus([&](Backend& backend, const std::shared_ptr<Ranks>& ranks) {
    const Tensor values = backend.Upload(Tensor::Zeros(DType::kBF16, {4096}));
    ranks->Sum(values);
    backend.Synchronize();
    if (ranks->share().rank == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));  // the other is waiting by now
      return ranks->Fail();
    }
    ranks->Sum(values);
    backend.Synchronize();
    EXPECT_THROW(ranks->Check(), Error);
    EXPECT_THROW(ranks->Sum(values), Error);
  });
}

// Logits behind a short prompt, of one rank.
Tensor Logits(Backend& backend, const std::shared_ptr<Ranks>& ranks) {
  ModelConfig config = SyntheticConfig("tiny");
  config.ffn = 512;  // 256 a rank
  Model model = MakeSyntheticModel(backend, config, WeightForm::kBf16, 1, ranks->share());
  model.ranks = ranks;
  Session session(backend, model, {});
  return session.Append(std::vector<int32_t>{5, 17, 300, 44, 2, 9, 130});
}

TEST(NcclRanks, AModelOnTwoGpusIsTheModelOnTwoThreads) {
  if (!TwoGpus()) GTEST_SKIP() << "needs two Hopper GPUs";
  std::vector<Tensor> on_cpu(kRanks), on_gpu(kRanks);
  const auto thread_ranks = MakeThreadRanks(kRanks);
  {
    std::vector<std::jthread> threads;
    for (size_t r = 0; r < kRanks; ++r)
      threads.emplace_back(
          [&, r] { on_cpu[r] = Logits(*MakeCpuBackend({.num_threads = 1}), thread_ranks[r]); });
  }
  OnGpus([&](Backend& backend, const std::shared_ptr<Ranks>& ranks) {
    on_gpu[static_cast<size_t>(ranks->share().rank)] = Logits(backend, ranks);
  });
  double error = 0.0, norm = 0.0;
  for (int64_t v = 0; v < on_cpu[0].num_elements(); ++v) {
    const double a = on_cpu[0].as<float>()[v], b = on_gpu[0].as<float>()[v];
    error += (a - b) * (a - b);
    norm += a * a;
    ASSERT_EQ(on_gpu[0].as<float>()[v], on_gpu[1].as<float>()[v]);
  }
  // Codes that tip over, through two blocks; another model's logits would be at 1.4.
  EXPECT_LT(std::sqrt(error / norm), 0.15);
}

}  // namespace
}  // namespace fireq
