// A model that several ranks share, against the same model whole.
#include "fireq/model/share.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/backends/cpu/thread_ranks.h"
#include "fireq/engine/session.h"
#include "fireq/formats/e4m3.h"
#include "fireq/model/model.h"
#include "tests/io/io_testing.h"
#include "tests/support/random_ids.h"
#include "tests/support/tiny_llama.h"

namespace fireq::test {
namespace {

// Logits of the last of `ids` by every rank of `size`, each in a thread with a backend of its own.
std::vector<Tensor> LogitsOfRanks(const std::filesystem::path& path, int size,
                                  const std::vector<int32_t>& ids) {
  const auto ranks = MakeThreadRanks(size);
  std::vector<Tensor> logits(static_cast<size_t>(size));
  std::vector<std::jthread> threads;
  for (int r = 0; r < size; ++r)
    threads.emplace_back([&, r] {
      const auto backend = MakeCpuBackend({.num_threads = 1});
      Model model = LoadModel(*backend, path, {}, {r, size});
      model.ranks = ranks[static_cast<size_t>(r)];
      Session session(*backend, model, {.prefill_chunk = 40});
      session.Append({ids.data(), ids.size() - 1});
      logits[static_cast<size_t>(r)] = session.Append({ids.data() + ids.size() - 1, 1});
    });
  threads.clear();
  return logits;
}

TEST(Share, RanksTogetherComputeTheModel) {
  ModelConfig config = TinyConfig();
  config.family = "qwen2";
  config.architecture = "Qwen2ForCausalLM";
  config.qkv_bias = true;
  config.num_heads = 12;
  config.num_kv_heads = 4;
  const TemporaryDirectory directory;
  const TinyWeights weights = RandomWeights(config, 7);
  WriteHuggingFace(directory.path(), config, weights);
  std::mt19937 rng(5);
  const std::vector<int32_t> ids = RandomIds(rng, 90, config.vocab_size);
  const std::vector<double> expected = ReferenceLogits(config, weights, ids).back();
  for (const int size : {1, 2, 4})
    for (const Tensor& logits : LogitsOfRanks(directory.path(), size, ids))
      for (int64_t v = 0; v < config.vocab_size; ++v)
        ASSERT_NEAR(logits.as<float>()[v], expected[static_cast<size_t>(v)], 2e-4)
            << size << " ranks, logit " << v;
}

TEST(Share, ARankThatFailsDoesNotLeaveTheOthersWaiting) {
  const auto ranks = MakeThreadRanks(3);
  std::atomic<int> ended = 0;
  std::vector<std::jthread> threads;
  for (size_t r = 0; r < 2; ++r)
    threads.emplace_back([&, r] {
      EXPECT_THROW(ranks[r]->Sum(Tensor::Zeros(DType::kF32, {4})), Error);
      ++ended;
    });
  EXPECT_NO_THROW(ranks[2]->Check());
  ranks[2]->Fail();
  threads.clear();
  EXPECT_EQ(ended, 2);
  EXPECT_THROW(ranks[0]->Check(), Error);
}

LinearPart RandomPart(int64_t n, int64_t k) {
  std::mt19937 rng(9);
  const WeightI4Layout layout{n, k};
  const auto bytes = [&](int64_t columns, uint32_t low, uint32_t high) {
    std::vector<uint8_t> values(static_cast<size_t>(n * columns));
    for (uint8_t& v : values) v = static_cast<uint8_t>(low + rng() % (high - low + 1));
    return Tensor::FromVector(DType::kU8, {n, columns}, values);
  };
  LinearPart part{.name = "random"};
  part.i4 = {.codes = bytes(layout.code_bytes_per_row(), 0, 255),
             .scale = bytes(layout.groups(), 0x30, 0x40).WithDType(DType::kE4M3),
             .zero = bytes(layout.groups(), 0, 15),
             .t = 4.0f,
             .n = n,
             .k = k};
  part.bias = Tensor::FromVector(DType::kF32, {n}, std::vector<float>(static_cast<size_t>(n), 1));
  return part;
}

float WeightAt(const WeightI4& w, int64_t row, int64_t column) {
  const WeightI4Layout layout{w.n, w.k};
  const uint8_t byte = w.codes.as<uint8_t>()[row * layout.code_bytes_per_row() + column / 2];
  const int64_t group = row * layout.groups() + column / kGroup;
  return ExactProduct(byte >> (column % 2 * 4) & 0xF, w.zero.as<uint8_t>()[group],
                      E4M3ToFloat(w.scale.as<e4m3_t>()[group])) /
         w.t;
}

TEST(Share, PartsOfAnInt4MatrixAreItsRowsAndColumns) {
  const LinearPart whole = RandomPart(12, 512);
  for (int rank = 0; rank < 2; ++rank) {
    const LinearPart rows = RowsOf(whole, {rank, 2});
    CheckWeightI4(rows.i4, "rows");
    EXPECT_EQ(rows.bias.num_elements(), 6);
    for (int64_t i = 0; i < 6 * 512; ++i)
      ASSERT_EQ(WeightAt(rows.i4, i / 512, i % 512),
                WeightAt(whole.i4, rank * 6 + i / 512, i % 512));
    const LinearPart columns = ColumnsOf(whole, {rank, 2});
    CheckWeightI4(columns.i4, "columns");
    EXPECT_EQ(columns.bias.defined(), rank == 0);
    for (int64_t i = 0; i < 12 * 256; ++i)
      ASSERT_EQ(WeightAt(columns.i4, i / 256, i % 256),
                WeightAt(whole.i4, i / 256, rank * 256 + i % 256));
  }
}

TEST(Share, WhatCannotBeCutIsRefused) {
  EXPECT_THROW(ColumnsOf(RandomPart(4, 384), {0, 2}), Error);  // half a group
  EXPECT_THROW(RowsOf(RandomPart(5, 128), {0, 2}), Error);
  EXPECT_THROW(ShareOf(TinyConfig(), {0, 4}), Error);  // two KV heads
  EXPECT_THROW(ShareOf(TinyConfig(), {2, 2}), Error);
  EXPECT_EQ(ShareOf(TinyConfig(), {1, 2}).num_heads, TinyConfig().num_heads / 2);
}

}  // namespace
}  // namespace fireq::test
