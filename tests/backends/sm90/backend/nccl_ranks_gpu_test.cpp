// Sums over GPUs, and a model that two of them share.
#include "fireq/backends/sm90/backend/nccl_ranks.h"

#include <gtest/gtest.h>

#include <array>
#include <barrier>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <mutex>
#include <random>
#include <thread>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/backends/cpu/thread_ranks.h"
#include "fireq/backends/sm90/backend/sm90_backend.h"
#include "fireq/engine/session.h"
#include "fireq/formats/act_e4m3.h"
#include "fireq/formats/bf16.h"
#include "fireq/formats/e4m3.h"
#include "fireq/model/synthetic.h"
#include "tests/backends/sm90/backend/on_gpus.h"

namespace fireq {
namespace {

// Of any length: through peer memory up to some, then by NCCL, which adds in an order of its own.
TEST(NcclRanks, SumsAreTheSumsCalledAndRecorded) {
  if (!TwoGpus()) GTEST_SKIP() << "needs two Hopper GPUs";
  std::vector<std::vector<Tensor>> all;
  for (const int64_t count : {8, 64 * 8192, 3 * 4096 + 8, 1, 2 * 1024 * 1024, 2 * 1024 * 1024 + 8})
    all.push_back(RandomParts(count));
  OnGpus(NumGpus(), [&](Backend& backend, const std::shared_ptr<Ranks>& ranks) {
    for (const std::vector<Tensor>& parts : all) {
      const int64_t count = parts[0].num_elements();
      const bool one_order = parts.size() == 2 || (count > 1 && count <= 64 * 8192);
      const Tensor& part = parts[static_cast<size_t>(ranks->share().rank)];
      const Tensor values = backend.Upload(part);
      const auto check = [&] {
        const Tensor sum = backend.Download(values);
        for (int64_t i = 0; i < count; ++i) {
          const bf16_t expected = SumAt(parts, i), got = sum.as<bf16_t>()[i];
          if (one_order) {
            ASSERT_EQ(got, expected) << i << " of " << count;
          } else {
            ASSERT_NEAR(Bf16ToFloat(got), Bf16ToFloat(expected), 0.1f) << i << " of " << count;
          }
        }
      };
      ranks->Sum(values);
      check();
      const auto recording = backend.Record([&] { ranks->Sum(values); });
      for (int run = 0; run < 5; ++run) {
        backend.UploadTo(part, values);
        recording->Run();
        check();
      }
    }
  });
}

// Codes of `rows` rows with their scales and sums, on the backend.
ActTensor MakeCodesFor(Backend& backend, int64_t rows, int64_t k) {
  return {backend.Allocate(DType::kE4M3, {rows, k}), backend.Allocate(DType::kF32, {rows}),
          backend.Allocate(DType::kF32, {rows, (k + kGroup - 1) / kGroup})};
}

// A norm right behind a sum is one kernel with it; behind anything else it is not. The sum is the
// same bits, of which a rank is sure to have those of its own rows; the norm's sum of squares is
// added in another order, so a code on a border may differ. Longer messages of more than two ranks
// go another way.
TEST(NcclRanks, ASumTakesItsNormAlong) {
  if (!TwoGpus()) GTEST_SKIP() << "needs two Hopper GPUs";
  struct Shape2 {
    int64_t rows, k;
  };
  for (const auto& [rows, k] : {Shape2{64, 8192},
                                {2, 64},
                                {37, 4096},
                                {77, 5120},
                                {128, 4096},
                                {61, 8128},
                                {150, 4096},
                                {300, 1024}}) {
    const std::vector<Tensor> parts = RandomParts(rows * k);
    const Tensor sums = Tensor::Empty(DType::kBF16, {rows, k});
    for (int64_t i = 0; i < rows * k; ++i) sums.as<bf16_t>()[i] = SumAt(parts, i);
    OnGpus(NumGpus(),
           [&, rows = rows, k = k](Backend& backend, const std::shared_ptr<Ranks>& ranks) {
             const Tensor& part = parts[static_cast<size_t>(ranks->share().rank)];
             std::vector<float> weights(static_cast<size_t>(k));
             for (size_t i = 0; i < weights.size(); ++i) weights[i] = 0.5f + 0.01f * (i % 101);
             const Tensor weight = backend.Upload(Tensor::FromVector(DType::kF32, {k}, weights));
             const Tensor x = backend.Allocate(DType::kBF16, {rows, k});
             const Tensor summed = backend.Upload(sums);
             const ActTensor together = MakeCodesFor(backend, rows, k);
             const ActTensor apart = MakeCodesFor(backend, rows, k);
             const auto norm = [&](const Tensor& of, const ActTensor& out) {
               backend.RmsNorm({.x = of, .weight = weight, .eps = 1e-5f, .out = out});
             };
             norm(summed, apart);
             const auto check = [&] {
               const Tensor sum = backend.Download(x);
               const Tensor got = backend.Download(together.values);
               const Tensor expected = backend.Download(apart.values);
               const Tensor scales = backend.Download(together.scale);
               const Tensor expected_scales = backend.Download(apart.scale);
               int64_t differ = 0;
               for (int64_t i = 0; i < rows * k; ++i) {
                 if (i / k % ranks->share().size == ranks->share().rank) {
                   ASSERT_EQ(sum.as<bf16_t>()[i], sums.as<bf16_t>()[i]) << i;
                 }
                 const int a = got.as<uint8_t>()[i], b = expected.as<uint8_t>()[i];
                 ASSERT_LE(std::abs(a - b), 1) << i << " of " << rows << " x " << k;
                 differ += a != b;
               }
               EXPECT_LE(differ, rows * k / 1000 + 2) << rows << " x " << k;
               for (int64_t r = 0; r < rows; ++r)
                 ASSERT_NEAR(scales.as<float>()[r], expected_scales.as<float>()[r],
                             1e-5f * expected_scales.as<float>()[r]);
             };
             const auto run = [&] {
               ranks->Sum(x);
               norm(x, together);
             };
             backend.Copy(backend.Upload(part).Reshape({rows, k}), x);
             run();
             check();
             const auto recording = backend.Record(run);
             for (int i = 0; i < 5; ++i) {
               backend.UploadTo(part.Reshape({rows, k}), x);
               recording->Run();
               check();
             }
           });
  }
}

// Many sums behind each other without a wait between: turns of the boxes may not mix.
TEST(NcclRanks, SumsInARowKeepTheirTurns) {
  if (!TwoGpus()) GTEST_SKIP() << "needs two Hopper GPUs";
  constexpr int64_t kCount = 64 * 1024;
  constexpr int kSums = 2000;
  const std::vector<Tensor> parts = RandomParts(kCount);
  const int size = static_cast<int>(parts.size());
  OnGpus(size, [&](Backend& backend, const std::shared_ptr<Ranks>& ranks) {
    const int rank = ranks->share().rank;
    const Tensor part = backend.Upload(parts[static_cast<size_t>(rank)]);
    const Tensor zero = backend.Upload(Tensor::Zeros(DType::kBF16, {kCount}));
    const Tensor values = backend.Allocate(DType::kBF16, {kCount});
    // Everybody's, then one rank's alone after the other: the values of every sum are different.
    for (int i = 0; i < kSums; ++i) {
      const int only = i % (size + 1) - 1;
      backend.Copy(only < 0 || only == rank ? part : zero, values);
      ranks->Sum(values);
      if (i % 97 != 0) continue;
      const Tensor sum = backend.Download(values);
      for (int64_t v = 0; v < kCount; ++v)
        ASSERT_EQ(sum.as<bf16_t>()[v],
                  only < 0 ? SumAt(parts, v) : parts[static_cast<size_t>(only)].as<bf16_t>()[v])
            << v << " of sum " << i;
    }
  });
}

// Two linears over all ranks behind each other, as they are in a block: what they are given, and
// what must come of it.
struct LinearsOfRanks {
  struct Part {
    std::array<std::shared_ptr<const PreparedLinear>, 2> w;
    ActTensor codes;
    std::array<Tensor, 2> products;  // of this rank, on the host
  };
  int64_t rows, n, k;  // k: of each rank
  Products kind;
  std::vector<Part> parts;
  std::barrier<> meeting;

  LinearsOfRanks(int64_t m, int64_t outputs, int64_t inputs, Products products, int ranks)
      : rows(m),
        n(outputs),
        k(inputs),
        kind(products),
        parts(static_cast<size_t>(ranks)),
        meeting(ranks) {}

  // On rank `rank`'s backend.
  void Prepare(Backend& backend, int rank) {
    Part& part = parts[static_cast<size_t>(rank)];
    std::mt19937 rng(static_cast<unsigned>(rank) + 1);
    std::normal_distribution<float> normal;
    const Tensor x = Tensor::Empty(DType::kBF16, {rows, k});
    for (int64_t i = 0; i < rows * k; ++i) x.as<bf16_t>()[i] = FloatToBf16(normal(rng));
    part.codes = MakeCodesFor(backend, rows, k);
    backend.Quantize({.x = backend.Upload(x), .out = part.codes});
    for (size_t i = 0; i < 2; ++i) {
      part.w[i] = backend.PrepareRandom(
          {.part_rows = {n}, .k = k, .seed = static_cast<uint64_t>(rank) * 2 + i});
      const Tensor y = backend.Allocate(DType::kBF16, {rows, n});
      backend.Linear({.x = part.codes, .w = part.w[i].get(), .products = kind, .y = y});
      part.products[i] = backend.Download(y);
    }
    meeting.arrive_and_wait();
  }
  // x + the sum over the ranks of the i-th products: x goes to the first one.
  Tensor Sum(const Tensor& x, size_t i) const {
    const Tensor sum = Tensor::Empty(DType::kBF16, {rows, n});
    for (int64_t at = 0; at < rows * n; ++at) {
      float total = Bf16ToFloat(FloatToBf16(Bf16ToFloat(x.as<bf16_t>()[at]) +
                                            Bf16ToFloat(parts[0].products[i].as<bf16_t>()[at])));
      for (size_t r = 1; r < parts.size(); ++r)
        total += Bf16ToFloat(parts[r].products[i].as<bf16_t>()[at]);
      sum.as<bf16_t>()[at] = FloatToBf16(total);
    }
    return sum;
  }
};

// The same bits whoever adds up: every rank all rows, or each its own, whose parts the GEMM sends
// (up to 64 tokens, and more of exact products), or which are sent behind it (the wide kernel).
TEST(NcclRanks, LinearsOverAllRanksAreTheSumsOfTheirProducts) {
  if (!TwoGpus()) GTEST_SKIP() << "needs two Hopper GPUs";
  struct Case {
    int64_t rows, n, k;
    Products products = Products::kServed;
  };
  for (const auto& [rows, n, k, products] : {Case{64, 8192, 2048},
                                             {85, 8192, 512, Products::kExact},
                                             {85, 8192, 512},
                                             {53, 8128, 1152},
                                             {100, 8192, 256},
                                             {128, 4096, 256},
                                             {16, 4096, 256}}) {
    const int size = NumGpus();
    // Longer ones are NCCL's, which adds three and more in an order of its own.
    if (size > 2 && rows * n * 2 * (size - 1) > 4 << 20) continue;
    LinearsOfRanks linears(rows, n, k, products, size);
    const Tensor start = RandomParts(rows * n)[0].Reshape({rows, n});
    std::once_flag summed;
    Tensor sum1, sum2;
    OnGpus(size, [&, rows = rows, n = n](Backend& backend, const std::shared_ptr<Ranks>& ranks) {
      const int rank = ranks->share().rank;
      linears.Prepare(backend, rank);
      std::call_once(summed, [&] {
        sum1 = linears.Sum(start, 0);
        sum2 = linears.Sum(sum1, 1);
      });
      const LinearsOfRanks::Part& part = linears.parts[static_cast<size_t>(rank)];
      const Tensor x = backend.Allocate(DType::kBF16, {rows, n});
      const auto add = [&](size_t i) {
        ranks->AddLinear(backend, {.x = part.codes,
                                   .w = part.w[i].get(),
                                   .epilogue = Epilogue::kResidual,
                                   .products = linears.kind,
                                   .residual = x,
                                   .y = x});
      };
      std::vector<float> weights(static_cast<size_t>(n));
      for (size_t i = 0; i < weights.size(); ++i) weights[i] = 0.5f + 0.01f * (i % 101);
      const Tensor weight = backend.Upload(Tensor::FromVector(DType::kF32, {n}, weights));
      const auto norm = [&](const Tensor& of, const ActTensor& out) {
        backend.RmsNorm({.x = of, .weight = weight, .eps = 1e-5f, .out = out});
      };
      const auto check = [&](const Tensor& got, const Tensor& expected) {
        for (int64_t i = 0; i < rows * n; ++i) {
          ASSERT_EQ(got.as<bf16_t>()[i], expected.as<bf16_t>()[i])
              << i << " of " << rows << " x " << n << ", rank " << rank;
        }
      };
      std::array<ActTensor, 2> codes, expected;
      for (ActTensor& c : codes) c = MakeCodesFor(backend, rows, n);
      for (ActTensor& c : expected) c = MakeCodesFor(backend, rows, n);
      norm(backend.Upload(sum1), expected[0]);
      norm(backend.Upload(sum2), expected[1]);
      const auto check_codes = [&](int i) {
        const Tensor got = backend.Download(codes[i].values);
        const Tensor want = backend.Download(expected[i].values);
        const Tensor scale = backend.Download(codes[i].scale);
        const Tensor want_scale = backend.Download(expected[i].scale);
        const Tensor sums = backend.Download(codes[i].sums);
        const int64_t groups = sums.dim(1);
        int64_t differ = 0;
        for (int64_t r = 0; r < rows; ++r) {
          ASSERT_NEAR(scale.as<float>()[r], want_scale.as<float>()[r],
                      1e-5f * want_scale.as<float>()[r]);
          for (int64_t g = 0; g < groups; ++g) {
            float sum = 0.0f;
            for (int64_t c = g * kGroup; c < std::min(n, (g + 1) * kGroup); ++c) {
              const int64_t at = r * n + c;
              sum += E4M3ToFloat(got.as<uint8_t>()[at]);
              differ += got.as<uint8_t>()[at] != want.as<uint8_t>()[at];
            }
            ASSERT_EQ(sums.as<float>()[r * groups + g], sum) << r << ", group " << g;
          }
        }
        EXPECT_LE(differ, rows * n / 1000 + 2) << rows << " x " << n;
      };
      // All of it behind the second sum, and behind its norm only if it is asked for.
      backend.UploadTo(start, x);
      add(0);
      norm(x, codes[0]);
      add(1);
      check(backend.Download(x), sum2);
      check_codes(0);
      backend.UploadTo(start, x);
      add(0);
      norm(x, codes[0]);
      ranks->Complete(x);
      check(backend.Download(x), sum1);
      const auto recording = backend.Record([&] {
        add(0);
        norm(x, codes[0]);
        add(1);
        norm(x, codes[1]);
      });
      for (int run = 0; run < 300; ++run) {
        backend.UploadTo(start, x);
        recording->Run();
        if (run % 100 != 0) continue;
        check_codes(0);
        check_codes(1);
        ranks->Complete(x);
        check(backend.Download(x), sum2);
      }
    });
  }
}

TEST(NcclRanks, ARankThatFailsDoesNotLeaveTheOtherWaiting) {
  if (!TwoGpus()) GTEST_SKIP() << "needs two Hopper GPUs";
  OnGpus(kRanks, [&](Backend& backend, const std::shared_ptr<Ranks>& ranks) {
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

// Of codes that tip over, through two blocks; another model's logits would be at 1.4.
double Distance(const Tensor& got, const Tensor& expected) {
  double error = 0.0, norm = 0.0;
  for (int64_t v = 0; v < expected.num_elements(); ++v) {
    const double a = expected.as<float>()[v], b = got.as<float>()[v];
    error += (a - b) * (a - b);
    norm += a * a;
  }
  return std::sqrt(error / norm);
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
  OnGpus(kRanks, [&](Backend& backend, const std::shared_ptr<Ranks>& ranks) {
    on_gpu[static_cast<size_t>(ranks->share().rank)] = Logits(backend, ranks);
  });
  for (int64_t v = 0; v < on_gpu[0].num_elements(); ++v)
    ASSERT_EQ(on_gpu[0].as<float>()[v], on_gpu[1].as<float>()[v]);
  EXPECT_LT(Distance(on_gpu[0], on_cpu[0]), 0.15);
}

// Logits behind a prompt so long that rows have owners on four GPUs, and behind one token more.
std::array<Tensor, 2> LogitsOfLongPrompt(Backend& backend, const std::shared_ptr<Ranks>& ranks) {
  ModelConfig config = SyntheticConfig("llama-3-8b");
  config.num_layers = 2;
  config.ffn = 2048;
  config.vocab_size = 512;
  Model model = MakeSyntheticModel(backend, config, WeightForm::kBf16, 1, ranks->share());
  model.ranks = ranks;
  Session session(backend, model, {});
  std::vector<int32_t> ids(100);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(37 * i % 512);
  Tensor first = session.Append(ids);
  return {first, session.Append(std::vector<int32_t>{5})};
}

TEST(NcclRanks, ALongPromptOnFourGpusIsThatOnFourThreads) {
  constexpr size_t kFour = 4;
  if (NumGpus() < static_cast<int>(kFour)) GTEST_SKIP() << "needs four Hopper GPUs";
  std::array<std::array<Tensor, 2>, kFour> on_cpu, on_gpu;
  const auto thread_ranks = MakeThreadRanks(kFour);
  {
    std::vector<std::jthread> threads;
    for (size_t r = 0; r < kFour; ++r)
      threads.emplace_back([&, r] {
        on_cpu[r] = LogitsOfLongPrompt(*MakeCpuBackend({.num_threads = 8}), thread_ranks[r]);
      });
  }
  OnGpus(kFour, [&](Backend& backend, const std::shared_ptr<Ranks>& ranks) {
    on_gpu[static_cast<size_t>(ranks->share().rank)] = LogitsOfLongPrompt(backend, ranks);
  });
  for (size_t i = 0; i < 2; ++i) {
    for (size_t r = 1; r < kFour; ++r)
      for (int64_t v = 0; v < on_gpu[0][i].num_elements(); ++v)
        ASSERT_EQ(on_gpu[r][i].as<float>()[v], on_gpu[0][i].as<float>()[v]);
    EXPECT_LT(Distance(on_gpu[0][i], on_cpu[0][i]), 0.15) << i;
  }
}

}  // namespace
}  // namespace fireq
