// One rule of the engine a test, on a tiny quantised model.
#include "fireq/engine/engine.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>

#include "tests/engine/engine_testing.h"

namespace fireq::test {
namespace {

void Drain(Engine& engine) {
  for (int i = 0; i < 100000; ++i)
    if (!engine.Step()) return;
  FAIL() << "the engine does not come to rest";
}

// Steps started behind each other, or behind the tokens of the last.
class EngineSteps : public testing::TestWithParam<RunAhead> {};
INSTANTIATE_TEST_SUITE_P(RunAhead, EngineSteps,
                         testing::Values(RunAhead::kNever, RunAhead::kAlways));

TEST_P(EngineSteps, MixedBatchEqualsSessionsAlone) {
  const TinyServing serving;
  Engine engine(*serving.backend, serving.model, serving.Options(200, GetParam()));
  Outcomes outcomes;
  std::mt19937 rng(1);
  std::vector<std::pair<RequestId, Request>> sent;
  for (int i = 0; i < 30; ++i) {
    Request request{.prompt = RandomIds(rng, 1 + static_cast<int64_t>(rng() % 200)),
                    .max_new_tokens = 1 + static_cast<int64_t>(rng() % 40)};
    if (i % 2 == 0)
      request.sampling = {.temperature = 1.0f, .seed = rng(), .repetition_penalty = 1.1f};
    sent.emplace_back(engine.Submit(request, outcomes.Sink())->id(), request);
  }
  Drain(engine);
  std::set<std::vector<int32_t>> different;
  for (const auto& [id, request] : sent) {
    outcomes.CheckEndedOnce(id);
    EXPECT_EQ(outcomes[id].finishes[0].reason, FinishReason::kLength);
    EXPECT_EQ(outcomes[id].ids, serving.Alone(request)) << "request " << id;
    different.insert(outcomes[id].ids);
  }
  EXPECT_GT(different.size(), 20u);  // the model says something
  CheckAllGivenBack(engine);
}

TEST_P(EngineSteps, StopsAtStopIdLengthAndContext) {
  const TinyServing serving;
  Engine engine(*serving.backend, serving.model, serving.Options(200, GetParam()));
  Outcomes outcomes;
  const std::vector<int32_t> prompt = {5, 6, 7};
  const std::vector<int32_t> all = serving.Alone({.prompt = prompt, .max_new_tokens = 12});
  const int32_t stop = all[5];
  const size_t before_stop = static_cast<size_t>(std::ranges::find(all, stop) - all.begin());
  const RequestId a =
      engine.Submit({.prompt = prompt, .max_new_tokens = 12, .stop_ids = {stop}}, outcomes.Sink())
          ->id();
  const RequestId b = engine.Submit({.prompt = prompt, .max_new_tokens = 4}, outcomes.Sink())->id();
  const RequestId c =
      engine
          .Submit({.prompt = std::vector<int32_t>(510, 3), .max_new_tokens = 99}, outcomes.Sink())
          ->id();
  Drain(engine);
  for (const RequestId id : {a, b, c}) outcomes.CheckEndedOnce(id);
  EXPECT_EQ(outcomes[a].finishes[0].reason, FinishReason::kStopId);
  EXPECT_EQ(outcomes[a].ids,
            std::vector(all.begin(), all.begin() + static_cast<int64_t>(before_stop)));
  EXPECT_EQ(outcomes[b].finishes[0].reason, FinishReason::kLength);
  EXPECT_EQ(outcomes[b].ids.size(), 4u);
  EXPECT_EQ(outcomes[c].finishes[0].reason, FinishReason::kContextFull);
  EXPECT_EQ(outcomes[c].ids.size(), 3u);  // as a session: the last of them is not run
}

TEST_P(EngineSteps, CacheSmallerThanTheContextIsTheLimit) {
  const TinyServing serving;
  Engine engine(*serving.backend, serving.model, serving.Options(2, GetParam()));
  EXPECT_EQ(engine.max_sequence_tokens(), 128);
  Outcomes outcomes;
  std::vector<RequestId> ids;
  for (int i = 0; i < 3; ++i)
    ids.push_back(engine
                      .Submit({.prompt = std::vector<int32_t>(100, i), .max_new_tokens = 400},
                              outcomes.Sink())
                      ->id());
  EXPECT_THROW(engine.Submit({.prompt = std::vector<int32_t>(129, 1)}, outcomes.Sink()), Error);
  Drain(engine);
  for (const RequestId id : ids) {
    outcomes.CheckEndedOnce(id);
    EXPECT_EQ(outcomes[id].finishes[0].reason, FinishReason::kContextFull);
    EXPECT_EQ(outcomes[id].ids.size(), 29u);
  }
}

TEST(Engine, RefusesWhatCanNeverRunAndWhatDoesNotFitInLine) {
  const TinyServing serving;
  EngineOptions options = serving.Options(8);
  options.queue_capacity = 2;
  Engine engine(*serving.backend, serving.model, options);
  Outcomes outcomes;
  EXPECT_THROW(engine.Submit({.prompt = {}}, outcomes.Sink()), Error);
  EXPECT_THROW(engine.Submit({.prompt = {61}}, outcomes.Sink()), Error);
  EXPECT_THROW(engine.Submit({.prompt = {-1}}, outcomes.Sink()), Error);
  EXPECT_THROW(engine.Submit({.prompt = {1}, .max_new_tokens = 0}, outcomes.Sink()), Error);
  EXPECT_THROW(engine.Submit({.prompt = {1}, .sampling = {.top_p = 2}}, outcomes.Sink()), Error);
  EXPECT_TRUE(engine.Submit({.prompt = {1}, .max_new_tokens = 2}, outcomes.Sink()).has_value());
  EXPECT_TRUE(engine.Submit({.prompt = {1}, .max_new_tokens = 2}, outcomes.Sink()).has_value());
  EXPECT_FALSE(engine.Submit({.prompt = {1}}, outcomes.Sink()).has_value());
  Drain(engine);
  EXPECT_EQ(outcomes.size(), 2u);
}

TEST(Engine, CancelEndsWaitingRunningAndFromInsideTheSink) {
  const TinyServing serving;
  EngineOptions options = serving.Options(100);
  options.runner.max_sequences = 2;
  Engine engine(*serving.backend, serving.model, options);
  Outcomes outcomes;
  const Request request{.prompt = {1, 2, 3}, .max_new_tokens = 300};
  const auto running = engine.Submit(request, outcomes.Sink());
  std::optional<RequestHandle> self;
  self = engine.Submit(request, [&, sink = outcomes.Sink()](const TokenEvent& event) {
    sink(event);
    if (event.token && outcomes[event.request].ids.size() == 5) self->Cancel();
  });
  const auto waiting = engine.Submit(request, outcomes.Sink());
  for (int i = 0; i < 3; ++i) engine.Step();
  running->Cancel();
  waiting->Cancel();
  waiting->Cancel();
  Drain(engine);
  for (const auto& handle : {running, self, waiting}) {
    outcomes.CheckEndedOnce(handle->id());
    EXPECT_EQ(outcomes[handle->id()].finishes[0].reason, FinishReason::kCancelled);
  }
  EXPECT_EQ(outcomes[running->id()].ids.size(), 3u);
  EXPECT_EQ(outcomes[self->id()].ids.size(), 5u);
  EXPECT_EQ(outcomes[waiting->id()].ids.size(), 0u);
  CheckAllGivenBack(engine);
}

// A stop id that comes while the next step runs already, and a cancel of one in flight.
TEST(Engine, TokensInFlightOfTheEndedAreDropped) {
  const TinyServing serving;
  Engine engine(*serving.backend, serving.model, serving.Options(100, RunAhead::kAlways));
  Outcomes outcomes;
  const Request request{.prompt = {1, 2, 3}, .max_new_tokens = 300};
  const std::vector<int32_t> alone = serving.Alone(request);
  const auto cancelled = engine.Submit(request, outcomes.Sink());
  for (int i = 0; i < 4; ++i) engine.Step();
  EXPECT_EQ(outcomes[cancelled->id()].ids.size(), 3u);  // the fourth is on its way
  cancelled->Cancel();
  EXPECT_FALSE(engine.Step());
  CheckAllGivenBack(engine);
  Request stopped = request;
  stopped.stop_ids = {alone[6]};
  const auto length = static_cast<size_t>(std::ranges::find(alone, alone[6]) - alone.begin());
  const RequestId id = engine.Submit(stopped, outcomes.Sink())->id();
  Drain(engine);
  for (const RequestId each : {cancelled->id(), id}) outcomes.CheckEndedOnce(each);
  EXPECT_EQ(outcomes[cancelled->id()].ids.size(), 3u);
  EXPECT_EQ(outcomes[id].ids,
            std::vector(alone.begin(), alone.begin() + static_cast<int64_t>(length)));
  EXPECT_EQ(engine.metrics().output_tokens, 3 + static_cast<int64_t>(length));
  CheckAllGivenBack(engine);
}

TEST_P(EngineSteps, SinkThatThrowsEndsItsRequestAlone) {
  const TinyServing serving;
  Engine engine(*serving.backend, serving.model, serving.Options(100, GetParam()));
  Outcomes outcomes;
  const Request request{.prompt = {1, 2, 3}, .max_new_tokens = 8};
  const auto bad = engine.Submit(request, [sink = outcomes.Sink()](const TokenEvent& event) {
    sink(event);
    throw std::runtime_error("the client is gone");
  });
  const auto good = engine.Submit(request, outcomes.Sink());
  Drain(engine);
  outcomes.CheckEndedOnce(bad->id());
  EXPECT_EQ(outcomes[bad->id()].finishes[0].reason, FinishReason::kCancelled);
  EXPECT_EQ(outcomes[good->id()].ids.size(), 8u);
}

TEST_P(EngineSteps, PrefixIsFoundAndChangesNothing) {
  const TinyServing serving;
  std::mt19937 rng(4);
  const std::vector<int32_t> system = RandomIds(rng, 200);
  const auto run = [&](bool prefix_cache) {
    Outcomes outcomes;
    EngineOptions options = serving.Options(40, GetParam());
    options.prefix_cache = prefix_cache;
    Engine engine(*serving.backend, serving.model, options);
    std::vector<std::vector<int32_t>> outputs;
    for (int i = 0; i < 6; ++i) {
      Request request{.prompt = system, .max_new_tokens = 10};
      request.prompt.resize(i < 5 ? 200 : 192);  // the last ends with a page: that one is run again
      if (i < 5) request.prompt.back() = i;
      const RequestId id = engine.Submit(request, outcomes.Sink())->id();
      Drain(engine);
      const int64_t expected = !prefix_cache || i == 0 ? 0 : (i < 5 ? 192 : 128);
      EXPECT_EQ(outcomes[id].finishes[0].cached_tokens, expected);
      EXPECT_EQ(outcomes[id].ids, serving.Alone(request));
      outputs.push_back(outcomes[id].ids);
    }
    EXPECT_EQ(engine.metrics().cached_tokens, prefix_cache ? 4 * 192 + 128 : 0);
    return outputs;
  };
  EXPECT_EQ(run(true), run(false));
}

// Fails after some steps.
class FailingSampler final : public TokenSampler {
 public:
  FailingSampler(Backend& backend, int good_steps) : host_(backend), good_steps_(good_steps) {}
  std::unique_ptr<ChosenTokens> Start(const Tensor& logits, std::span<const SampleRow> rows,
                                      const Tensor& ids) override {
    FIREQ_CHECK(good_steps_-- > 0, kCuda, "an illegal memory access");
    return host_.Start(logits, rows, ids);
  }

 private:
  BackendTokenSampler host_;
  int good_steps_;
};

TEST(Engine, FailedStepEndsEverythingByNameAndTakesNoMore) {
  const TinyServing serving;
  EngineOptions options = serving.Options(100);
  options.runner.max_sequences = 1;
  Outcomes outcomes;
  std::vector<RequestId> ids;
  Engine engine(*serving.backend, serving.model, options,
                std::make_unique<FailingSampler>(*serving.backend, 3));
  for (int i = 0; i < 3; ++i)
    ids.push_back(engine.Submit({.prompt = {1, 2}, .max_new_tokens = 9}, outcomes.Sink())->id());
  Drain(engine);
  for (const RequestId id : ids) {
    outcomes.CheckEndedOnce(id);
    EXPECT_EQ(outcomes[id].finishes[0].reason, FinishReason::kError);
    EXPECT_EQ(outcomes[id].finishes[0].error, "an illegal memory access");
  }
  EXPECT_EQ(outcomes[ids[0]].ids.size(), 3u);
  EXPECT_FALSE(engine.Submit({.prompt = {1}}, outcomes.Sink()).has_value());
  CheckAllGivenBack(engine);
}

TEST_P(EngineSteps, NanLogitsEndTheirRequest) {
  TinyServing serving;
  serving.model.weights.final_norm =
      Tensor::FromVector(DType::kF32, {32}, std::vector<float>(32, NAN));
  Engine engine(*serving.backend, serving.model, serving.Options(100, GetParam()));
  Outcomes outcomes;
  const RequestId id = engine.Submit({.prompt = {1, 2}}, outcomes.Sink())->id();
  Drain(engine);
  outcomes.CheckEndedOnce(id);
  EXPECT_EQ(outcomes[id].finishes[0].reason, FinishReason::kError);
}

TEST_P(EngineSteps, DestructionEndsWhatIsOpen) {
  const TinyServing serving;
  Outcomes outcomes;
  std::vector<RequestId> ids;
  {
    Engine engine(*serving.backend, serving.model, serving.Options(100, GetParam()));
    for (int i = 0; i < 2; ++i) {
      ids.push_back(engine.Submit({.prompt = {1, 2}, .max_new_tokens = 99}, outcomes.Sink())->id());
      if (i == 0) engine.Step();
    }
  }
  for (const RequestId id : ids) {
    outcomes.CheckEndedOnce(id);
    EXPECT_EQ(outcomes[id].finishes[0].reason, FinishReason::kCancelled);
  }
}

class EngineFastest : public testing::TestWithParam<std::tuple<RecordDecode, RunAhead, Products>> {
};

// Without batch invariance outputs may part only where two logits nearly tie; decode steps filled
// up and recorded or not. One of the products, or `served` in steps that are too short for two:
// where it goes from one to the other outputs part at any logits.
TEST_P(EngineFastest, PartsOnlyAtNearTies) {
  const TinyServing serving;
  EngineOptions options = serving.Options(200, std::get<1>(GetParam()));
  options.runner.record_decode = std::get<0>(GetParam());
  SessionOptions alone_options{.products = std::get<2>(GetParam())};
  options.runner.products = alone_options.products;
  options.runner.reduction = Reduction::kFastest;
  if (alone_options.products == Products::kServed)
    options.runner.max_tokens = alone_options.prefill_chunk = kTableMinTokens - 1;
  Engine engine(*serving.backend, serving.model, options);
  Outcomes outcomes;
  std::mt19937 rng(9);
  std::vector<std::pair<RequestId, Request>> sent;
  for (int i = 0; i < 40; ++i) {
    Request request{.prompt = RandomIds(rng, 1 + static_cast<int64_t>(rng() % 100)),
                    .max_new_tokens = 30};
    request.sampling.num_logprobs = 2;
    sent.emplace_back(engine.Submit(request, outcomes.Sink())->id(), request);
  }
  Drain(engine);
  for (const auto& [id, request] : sent) {
    outcomes.CheckEndedOnce(id);
    const std::vector<int32_t>& batched = outcomes[id].ids;
    Session session(*serving.backend, serving.model, alone_options);
    std::vector<int32_t> next = request.prompt;
    for (const int32_t chosen : batched) {
      const Tensor logits = session.Append(next);
      const TokenChoice alone =
          Sampler().Choose(request.sampling,
                           {logits.as<float>(), static_cast<size_t>(logits.num_elements())}, {}, 0);
      if (alone.id != chosen) {
        EXPECT_LT(alone.top[0].logprob - alone.top[1].logprob, 0.1f);
        break;
      }
      next = {chosen};
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    RecordDecode, EngineFastest,
    testing::Combine(testing::Values(RecordDecode::kNever, RecordDecode::kAlways),
                     testing::Values(RunAhead::kNever, RunAhead::kAlways),
                     testing::Values(Products::kServed, Products::kExact, Products::kTable)));

}  // namespace
}  // namespace fireq::test
