// An lm_head that several GPUs share.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <random>
#include <thread>
#include <vector>

#include "tests/backends/sm90/backend/on_gpus.h"

namespace fireq {
namespace {

// An lm_head: every rank has it whole, and multiplies by a part of it. The same bits.
TEST(NcclRanks, ALinearOfAllRanksIsTheLinearOfOne) {
  if (!TwoGpus()) GTEST_SKIP() << "needs two Hopper GPUs";
  constexpr int64_t kColumns = 1024;
  for (const int64_t rows : {1, 64})
    for (const int64_t outputs : {12 * 64 * 10, 12 * 8 * 7, 1001})  // 1001: no equal parts
      OnGpus(NumGpus(), [&](Backend& backend, const std::shared_ptr<Ranks>& ranks) {
        const auto w = backend.PrepareRandom(
            {.part_rows = {outputs}, .k = kColumns, .form = WeightForm::kBf16, .seed = 3});
        const Tensor x = backend.RandomBf16({rows, kColumns}, 1.0f, 5);
        const Tensor alone = backend.Allocate(DType::kF32, {rows, outputs});
        const Tensor together = backend.Allocate(DType::kF32, {rows, outputs});
        backend.Linear({.x = {x, {}, {}}, .w = w.get(), .y = alone});
        const int64_t held = ranks->Reserve(backend, {.max_logit_rows = rows, .lm_head = w.get()});
        EXPECT_GE(held, outputs == 1001 ? 0 : rows * outputs * 4);
        const auto run = [&] {
          ranks->Linear(backend, {.x = {x, {}, {}}, .w = w.get(), .y = together});
        };
        const auto check = [&] {
          const Tensor got = backend.Download(together), expected = backend.Download(alone);
          for (int64_t i = 0; i < rows * outputs; ++i)
            ASSERT_EQ(got.as<float>()[i], expected.as<float>()[i])
                << i << " of " << rows << " x " << outputs;
        };
        run();
        check();
        const auto recording = backend.Record(run);
        for (int i = 0; i < 3; ++i) {
          backend.UploadTo(Tensor::Zeros(DType::kF32, {rows, outputs}), together);
          recording->Run();
          check();
        }
      });
}

// Ties within a rank's part and between parts, a row of NaNs, and an output of NaN; between sums,
// whose turns of the boxes the exchange may not mix up.
TEST(NcclRanks, ALargestOutputOfAllRanksIsThatOfOne) {
  if (!TwoGpus()) GTEST_SKIP() << "needs two Hopper GPUs";
  constexpr int64_t kColumns = 1024, kSummed = 64 * 1024;
  std::mt19937 rng(std::random_device{}());
  std::normal_distribution<float> normal;
  for (const int64_t outputs : {12 * 64 * 10, 12 * 64, 1001}) {  // 1001: each finds all
    Tensor w = Tensor::Empty(DType::kBF16, {outputs, kColumns});
    for (int64_t i = 0; i < outputs * kColumns; ++i)
      w.as<bf16_t>()[i] = FloatToBf16(0.1f * normal(rng));
    for (int64_t c = 0; c < kColumns; ++c)  // the last one is some earlier one's twin
      w.as<bf16_t>()[(outputs - 1) * kColumns + c] =
          w.as<bf16_t>()[(outputs / 2 - 1) * kColumns + c];
    w.as<bf16_t>()[5 * kColumns] = FloatToBf16(NAN);
    for (const int64_t rows : {1, 3, 64, 130, 300}) {
      Tensor x = Tensor::Empty(DType::kBF16, {rows, kColumns});
      for (int64_t i = 0; i < rows * kColumns; ++i) x.as<bf16_t>()[i] = FloatToBf16(normal(rng));
      for (int64_t c = 0; c < kColumns && rows > 2; ++c) {
        x.as<bf16_t>()[c] = w.as<bf16_t>()[(outputs - 1) * kColumns + c];
        x.as<bf16_t>()[kColumns + c] = 0;
        x.as<bf16_t>()[2 * kColumns + c] = FloatToBf16(NAN);
      }
      const std::vector<Tensor> parts = RandomParts(kSummed);
      OnGpus(NumGpus(), [&](Backend& backend, const std::shared_ptr<Ranks>& ranks) {
        LinearSpec spec;
        spec.parts.push_back({.name = "lm_head", .weight = w});
        const auto lm_head = backend.Prepare(std::move(spec));
        const Tensor& part = parts[static_cast<size_t>(ranks->share().rank)];
        const Tensor tokens = backend.Upload(x), sum = backend.Upload(part);
        const Tensor alone = backend.Allocate(DType::kI32, {rows});
        const Tensor together = backend.Allocate(DType::kI32, {rows});
        backend.Linear({.x = {tokens, {}, {}}, .w = lm_head.get(), .largest = alone});
        const Tensor expected = backend.Download(alone);
        if (rows > 2) {
          EXPECT_EQ(expected.as<int32_t>()[0], outputs / 2 - 1);
          EXPECT_EQ(expected.as<int32_t>()[1], 0);
          EXPECT_EQ(expected.as<int32_t>()[2], -1);
        }
        const auto run = [&] {
          ranks->Sum(sum);
          ranks->Linear(backend, {.x = {tokens, {}, {}}, .w = lm_head.get(), .largest = together});
        };
        const auto check = [&] {
          const Tensor got = backend.Download(together), summed = backend.Download(sum);
          for (int64_t r = 0; r < rows; ++r)
            ASSERT_EQ(got.as<int32_t>()[r], expected.as<int32_t>()[r])
                << r << " of " << rows << " x " << outputs << ", rank " << ranks->share().rank;
          for (int64_t i = 0; i < kSummed; ++i)
            ASSERT_EQ(summed.as<bf16_t>()[i], SumAt(parts, i)) << i;
        };
        run();
        check();
        const auto recording = backend.Record(run);
        for (int i = 0; i < 100; ++i) {
          backend.UploadTo(part, sum);
          recording->Run();
          if (i % 20 == 0) check();
        }
      });
    }
  }
}

// Of an exchange that is called, and of one that is recorded.
TEST(NcclRanks, ARankThatFailsDoesNotLeaveTheOthersWaitingForTheLargest) {
  if (!TwoGpus()) GTEST_SKIP() << "needs two Hopper GPUs";
  constexpr int64_t kColumns = 1024, kRows = 64;
  for (const bool recorded : {false, true})
    OnGpus(NumGpus(), [&](Backend& backend, const std::shared_ptr<Ranks>& ranks) {
      const auto w = backend.PrepareRandom(
          {.part_rows = {12 * 64 * 10}, .k = kColumns, .form = WeightForm::kBf16, .seed = 3});
      const Tensor x = backend.RandomBf16({kRows, kColumns}, 1.0f, 5);
      const Tensor largest = backend.Allocate(DType::kI32, {kRows});
      const auto find = [&] {
        ranks->Linear(backend, {.x = {x, {}, {}}, .w = w.get(), .largest = largest});
      };
      find();
      const auto recording = backend.Record(find);
      backend.Synchronize();
      if (ranks->share().rank == 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds(200));  // the others wait by now
        return ranks->Fail();
      }
      recorded ? recording->Run() : find();
      backend.Synchronize();
      EXPECT_THROW(ranks->Check(), Error);
      EXPECT_THROW(find(), Error);
    });
}

}  // namespace
}  // namespace fireq
