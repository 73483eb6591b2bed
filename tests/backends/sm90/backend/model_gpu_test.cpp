// A whole model on the device: against the CPU backend, recorded against not, served against alone.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/backends/sm90/backend/sm90_backend.h"
#include "fireq/backends/sm90/gemm_i4f8/block_plan.h"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/engine/engine.h"
#include "fireq/engine/generate.h"
#include "fireq/measure/trace_compare.h"
#include "fireq/model/synthetic.h"
#include "tests/backends/sm90/needs_hopper.h"
#include "tests/support/random_ids.h"

namespace fireq {
namespace {

class DeviceModel : public testing::Test {
 protected:
  void SetUp() override {
    FIREQ_NEEDS_HOPPER();
    gpu_ = MakeSm90Backend();
    model_ = MakeSyntheticModel(*gpu_, SyntheticConfig("tiny"));
  }

  std::vector<int32_t> RandomIds(int64_t count) { return test::RandomIds(rng_, count, 512); }

  EngineOptions Options(int64_t num_pages, Reduction reduction) const {
    EngineOptions options;
    options.runner = {.max_tokens = 192,
                      .max_sequences = 24,
                      .memory_bytes = int64_t{256} << 20,
                      .max_pages = num_pages,
                      .products = Products::kTable,
                      .reduction = reduction};
    return options;
  }

  // Output ids of each request through an engine, every one of which ends once and by length.
  std::vector<std::vector<int32_t>> Serve(const EngineOptions& options,
                                          const std::vector<Request>& requests) {
    Engine engine(*gpu_, model_, options);
    std::map<RequestId, std::vector<int32_t>> ids;
    std::map<RequestId, int> finishes;
    std::vector<RequestId> order;
    for (const Request& request : requests)
      order.push_back(engine
                          .Submit(request,
                                  [&](const TokenEvent& event) {
                                    if (event.token) ids[event.request].push_back(event.token->id);
                                    if (event.finish) {
                                      ++finishes[event.request];
                                      EXPECT_EQ(event.finish->reason, FinishReason::kLength)
                                          << event.finish->error;
                                    }
                                  })
                          ->id());
    while (engine.Step()) {
    }
    EXPECT_EQ(engine.metrics().num_pages_in_use, 0);
    std::vector<std::vector<int32_t>> out;
    for (const RequestId id : order) {
      EXPECT_EQ(finishes[id], 1);
      out.push_back(ids[id]);
    }
    return out;
  }

  std::mt19937 rng_{11};
  std::unique_ptr<Backend> gpu_;
  Model model_;
};

// Equal inputs of every op: what differs is the order of FP32 sums, what the tensor cores cut off,
// and the codes and BF16 values that those tip over the edge of a rounding.
void CheckTraces(const std::vector<TensorDifference>& differences) {
  for (const TensorDifference& d : differences) {
    EXPECT_LT(d.relative_error, d.name == "embed" ? 1e-30 : 1e-2)
        << "layer " << d.layer << " " << d.name;
    EXPECT_LT(std::abs(d.gain), 1e-3) << "layer " << d.layer << " " << d.name;
  }
}

TEST_F(DeviceModel, SyntheticWeightsAndTheirForwardAreTheCpus) {
  const auto cpu = MakeCpuBackend();
  for (const WeightForm lm_head : {WeightForm::kBf16, WeightForm::kInt4}) {
    const Model on_cpu = MakeSyntheticModel(*cpu, SyntheticConfig("tiny"), lm_head);
    const Model on_gpu = MakeSyntheticModel(*gpu_, SyntheticConfig("tiny"), lm_head);
    for (const Products products : {Products::kTable, Products::kExact})
      for (const int64_t count : {1, 5, 40, 200})
        CheckTraces(
            CompareTraces({cpu.get(), &on_cpu}, {gpu_.get(), &on_gpu}, RandomIds(count), products));
  }
}

TEST_F(DeviceModel, RecordedDecodeIsTheSameAsCalled) {
  std::vector<Request> requests;
  for (int i = 0; i < 60; ++i)
    requests.push_back({.prompt = RandomIds(1 + static_cast<int64_t>(rng_() % 150)),
                        .max_new_tokens = 1 + static_cast<int64_t>(rng_() % 40)});
  EngineOptions options = Options(400, Reduction::kFastest);
  options.runner.record_decode = RecordDecode::kNever;
  const auto called = Serve(options, requests);
  options.runner.record_decode = RecordDecode::kAlways;
  const auto recorded = Serve(options, requests);
  // Filled-up steps share sums differently: outputs part at near ties, rarely at the start.
  int64_t same = 0, total = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    ASSERT_EQ(called[i].size(), static_cast<size_t>(requests[i].max_new_tokens));
    ASSERT_EQ(recorded[i].size(), called[i].size());
    same += called[i][0] == recorded[i][0];
    ++total;
  }
  EXPECT_GE(same, total * 95 / 100);
}

// One sequence, whose blocks are launched together, over the contexts in which they are; also
// where gate and up have more outputs than such a launch hands on.
TEST_F(DeviceModel, BlocksOfOneSequenceRecordedAreTheSameAsCalled) {
  ModelConfig config = SyntheticConfig("tiny");
  config.num_layers = sm90::kMaxBlocks + 2;
  config.hidden = 1536;
  config.num_heads = 12;
  config.num_kv_heads = 3;
  config.head_dim = 128;
  config.max_context = 8192;
  for (const int64_t ffn : {2688, 20480}) {
    config.ffn = ffn;
    model_ = MakeSyntheticModel(*gpu_, config);
    std::vector<Request> requests;
    for (const int64_t tokens : {1, 63, 500, 2040, 4070})
      requests.push_back({.prompt = RandomIds(tokens), .max_new_tokens = 40});
    EngineOptions options = Options(80, Reduction::kFastest);
    options.runner.max_sequences = 1;
    options.runner.products = Products::kServed;
    options.runner.record_decode = RecordDecode::kNever;
    const auto called = Serve(options, requests);
    options.runner.record_decode = RecordDecode::kAlways;
    EXPECT_EQ(Serve(options, requests), called) << ffn;
  }
}

TEST_F(DeviceModel, BatchInvariantOutputsAreThoseOfTheRequestAlone) {
  // Where some rows draw, steps write logits; where none does, lm_head names the tokens.
  for (const bool some_draw : {true, false}) {
    std::vector<Request> requests;
    for (int i = 0; i < 200; ++i) {
      Request request{.prompt = RandomIds(1 + static_cast<int64_t>(rng_() % 200)),
                      .max_new_tokens = 1 + static_cast<int64_t>(rng_() % 30)};
      if (some_draw && i % 2 == 0)
        request.sampling = {.temperature = 0.8f, .seed = static_cast<uint64_t>(i)};
      requests.push_back(request);
    }
    // Too few pages: sequences are preempted and recomputed.
    const auto served = Serve(Options(40, Reduction::kBatchInvariant), requests);
    for (size_t i = 0; i < requests.size(); i += 5) {
      Session alone(*gpu_, model_,
                    {.products = Products::kTable, .reduction = Reduction::kBatchInvariant});
      const Generation expected =
          Generate(alone, requests[i].prompt,
                   {requests[i].max_new_tokens, requests[i].sampling, requests[i].stop_ids});
      EXPECT_EQ(served[i], expected.ids) << "request " << i << (some_draw ? "" : ", none draws");
    }
  }
}

// Bytes of the device's pool in use, and the most since this was called before.
struct PoolUse {
  int64_t now, most;
};
PoolUse ReadPool() {
  cudaMemPool_t pool = nullptr;
  FIREQ_CUDA(cudaDeviceGetDefaultMemPool(&pool, 0));
  uint64_t now = 0, most = 0, reset = 0;
  FIREQ_CUDA(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &now));
  FIREQ_CUDA(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &most));
  FIREQ_CUDA(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &reset));
  return {static_cast<int64_t>(now), static_cast<int64_t>(most)};
}

// The largest steps there are: prompts of max_tokens, decode of max_sequences, all that sampling
// may want.
TEST_F(DeviceModel, AnEngineTakesNoMoreThanItsBudget) {
  for (const WeightForm lm_head : {WeightForm::kBf16, WeightForm::kInt4}) {
    for (const Reduction reduction : {Reduction::kFastest, Reduction::kBatchInvariant}) {
      gpu_ = MakeSm90Backend();
      model_ = MakeSyntheticModel(*gpu_, SyntheticConfig("tiny"), lm_head);
      EngineOptions options = Options(0, reduction);
      options.runner.memory_bytes = int64_t{24} << 20;
      gpu_->Synchronize();
      const int64_t before = ReadPool().now;
      std::vector<Request> requests;
      for (int i = 0; i < 100; ++i)
        requests.push_back(
            {.prompt = RandomIds(i % 4 == 0 ? 600 : 40),
             .max_new_tokens = 50,
             .sampling = {.repetition_penalty = 1.1f, .num_logprobs = kMaxLogprobs}});
      Serve(options, requests);
      const PoolUse after = ReadPool();
      EXPECT_LE(after.most - before, options.runner.memory_bytes);
      EXPECT_GE(after.most - before, options.runner.memory_bytes * 9 / 10);
    }
  }
}

// 10,000 requests of random lengths with random cancels and far too few pages.
TEST_F(DeviceModel, EveryRequestEndsOnceAndNoPageLeaks) {
  EngineOptions options = Options(12, Reduction::kFastest);
  options.queue_capacity = 64;
  Engine engine(*gpu_, model_, options);
  std::map<RequestId, int> finishes;
  std::vector<RequestHandle> open;
  int64_t submitted = 0;
  while (submitted < 10000) {
    Request request{.prompt = RandomIds(1 + static_cast<int64_t>(rng_() % 100)),
                    .max_new_tokens = 1 + static_cast<int64_t>(rng_() % 100)};
    if (rng_() % 2 == 0) request.sampling = {.temperature = 1.0f, .top_p = 0.9f, .seed = rng_()};
    const auto handle = engine.Submit(request, [&](const TokenEvent& event) {
      if (event.finish) ++finishes[event.request];
    });
    if (handle) {
      ++submitted;
      open.push_back(*handle);
      if (rng_() % 8 == 0) open[rng_() % open.size()].Cancel();
    }
    if (!handle || rng_() % 4 == 0) engine.Step();
  }
  while (engine.Step()) {
  }
  EXPECT_EQ(finishes.size(), 10000u);
  for (const auto& [id, count] : finishes) EXPECT_EQ(count, 1) << id;
  const EngineMetrics metrics = engine.metrics();
  EXPECT_EQ(metrics.num_pages_in_use, 0);
  EXPECT_GT(metrics.num_preempted, 0);
  EXPECT_GT(metrics.num_finished[static_cast<size_t>(FinishReason::kCancelled)], 0);
  EXPECT_EQ(metrics.num_finished[static_cast<size_t>(FinishReason::kError)], 0);
}

}  // namespace
}  // namespace fireq
