// Backends of one GPU in one process, each in a thread of its own: kernels of which CTAs wait for
// each other must not meet.
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "fireq/backends/sm90/backend/sm90_backend.h"
#include "fireq/base/error.h"
#include "fireq/engine/engine.h"
#include "fireq/engine/session.h"
#include "fireq/model/synthetic.h"
#include "tests/backends/sm90/needs_hopper.h"
#include "tests/support/random_ids.h"

namespace fireq {
namespace {

// Linears that fill the GPU, and little else.
ModelConfig TwoLargeLayers() {
  ModelConfig config = SyntheticConfig("llama-3-8b");
  config.num_layers = 2;
  config.vocab_size = 4096;
  return config;
}

class Server {
 public:
  Server(const ModelConfig& config, uint32_t seed)
      : gpu_(MakeSm90Backend()), model_(MakeSyntheticModel(*gpu_, config)) {
    std::mt19937 rng(seed);
    const auto add = [&](std::vector<Request>& to, int64_t prompt, int64_t tokens) {
      to.push_back({.prompt = test::RandomIds(rng, prompt, static_cast<int>(config.vocab_size)),
                    .max_new_tokens = tokens});
    };
    // One token's chain; then GEMMs of few and of many tokens, mixed steps, and decode steps of all
    // sizes on the way down.
    add(alone_, 300, 40);
    for (int i = 0; i < 24; ++i)
      add(together_, 1 + static_cast<int64_t>(rng() % 200), 1 + static_cast<int64_t>(rng() % 30));
  }

  // Output ids of every request.
  std::vector<std::vector<int32_t>> Serve(RecordDecode record) {
    std::vector<std::vector<int32_t>> out;
    for (const std::vector<Request>* requests : {&alone_, &together_}) {
      Engine engine(*gpu_, model_,
                    {.runner = {.max_context = 1024,
                                .max_tokens = 1024,
                                .max_sequences = 24,
                                .memory_bytes = int64_t{512} << 20,
                                .record_decode = record}});
      const size_t first = out.size();
      out.resize(first + requests->size());
      for (size_t i = 0; i < requests->size(); ++i)
        engine.Submit((*requests)[i], [&ids = out[first + i]](const TokenEvent& event) {
          if (event.token) ids.push_back(event.token->id);
        });
      while (engine.Step()) {
      }
    }
    return out;
  }

 private:
  std::unique_ptr<Backend> gpu_;
  Model model_;
  std::vector<Request> alone_, together_;
};

// Steps called op by op and recorded, of two servers at once, and backends that come and go beside
// them.
void ServeAtOnce(const ModelConfig& config, int rounds) {
  std::vector<std::unique_ptr<Server>> servers;
  for (const uint32_t seed : {1u, 2u}) servers.push_back(std::make_unique<Server>(config, seed));
  for (const RecordDecode record : {RecordDecode::kNever, RecordDecode::kAlways}) {
    std::vector<std::vector<std::vector<int32_t>>> expected;
    expected.reserve(servers.size());
    for (const auto& server : servers) expected.push_back(server->Serve(record));
    std::vector<std::jthread> threads;  // wait at the end
    for (size_t s = 0; s < servers.size(); ++s)
      threads.emplace_back([&, s] {
        for (int round = 0; round < rounds; ++round)
          ASSERT_EQ(servers[s]->Serve(record), expected[s]) << "server " << s << ", " << round;
      });
    threads.emplace_back([&] {
      for (int round = 0; round < rounds; ++round) Server(SyntheticConfig("tiny"), 3).Serve(record);
    });
  }
}

TEST(BackendTurns, LargeLayersOfTwoBackendsAtOnceGiveWhatEachGivesAlone) {
  FIREQ_NEEDS_HOPPER();
  ServeAtOnce(TwoLargeLayers(), 10);
}

TEST(BackendTurns, SmallLayersOfTwoBackendsAtOnceGiveWhatEachGivesAlone) {
  FIREQ_NEEDS_HOPPER();
  ServeAtOnce(SyntheticConfig("tiny"), 1);
}

TEST(BackendTurns, AnOpThatThrowsGivesItsTurnBack) {
  FIREQ_NEEDS_HOPPER();
  const auto first = MakeSm90Backend(), second = MakeSm90Backend();
  const Tensor wide = first->Allocate(DType::kF32, {4, 128});
  const ActTensor codes{first->Allocate(DType::kE4M3, {4, 128}), first->Allocate(DType::kF32, {4}),
                        first->Allocate(DType::kF32, {4, 1})};
  EXPECT_THROW(first->Quantize({.x = wide, .out = codes}), Error);
  EXPECT_THROW(static_cast<void>(first->Record([] { Throw(ErrorCode::kInternal, "in a step"); })),
               Error);
  std::jthread other([&] {
    const Tensor values = second->Upload(Tensor::Zeros(DType::kF32, {8}));
    second->Copy(values, second->Allocate(DType::kF32, {8}));
  });
  other.join();
  first->Synchronize();
}

// The one that has had the last turn goes away, with work of its own still to run.
TEST(BackendTurns, ABackendThatGoesAwayHasFinished) {
  FIREQ_NEEDS_HOPPER();
  Server stays(SyntheticConfig("tiny"), 1);
  const auto expected = stays.Serve(RecordDecode::kAlways);
  for (int i = 0; i < 5; ++i) {
    {
      const auto goes = MakeSm90Backend();
      const Tensor from = goes->Allocate(DType::kU8, {int64_t{256} << 20});
      const Tensor to = goes->Allocate(DType::kU8, from.shape());
      for (int copy = 0; copy < 20; ++copy) goes->Copy(from, to);
    }
    EXPECT_EQ(stays.Serve(RecordDecode::kAlways), expected);
  }
}

}  // namespace
}  // namespace fireq
