// Greedy rows on a backend whose lm_head finds the largest logit by itself.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "fireq/ops/ranks.h"
#include "tests/engine/engine_testing.h"
#include "tests/support/half_logit_backend.h"

namespace fireq::test {
namespace {

class LargestBackend final : public HalfLogitBackend {
 public:
  explicit LargestBackend(bool finds) : finds_(finds) {}
  int64_t found() const { return found_; }  // calls
  // As a device has it: a copy of its own, which later steps do not write.
  Tensor Download(const Tensor& tensor) override {
    const Tensor copy = Tensor::Empty(tensor.dtype(), tensor.shape());
    cpu().Copy(tensor, copy);
    return copy;
  }
  bool FindsLargest(const PreparedLinear& /*lm_head*/) const override { return finds_; }
  void Linear(const LinearArgs& args) override {
    if (!args.largest.defined()) return HalfLogitBackend::Linear(args);
    ++found_;
    EXPECT_FALSE(args.y.defined());
    LinearArgs halves = args;
    halves.largest = {};
    halves.y = Tensor::Empty(DType::kF16, {args.x.values.dim(0), args.w->n()});
    HalfLogitBackend::Linear(halves);
    for (int64_t r = 0; r < halves.y.dim(0); ++r) {
      const uint16_t* row = halves.y.as<uint16_t>() + r * args.w->n();
      args.largest.as<int32_t>()[r] = static_cast<int32_t>(
          std::max_element(row, row + args.w->n(),
                           [](uint16_t a, uint16_t b) { return F16ToFloat(a) < F16ToFloat(b); }) -
          row);
    }
  }

 private:
  bool finds_;
  int64_t found_ = 0;
};

struct Served {
  std::vector<std::vector<int32_t>> outputs;
  int64_t found = 0, sampled = 0;
};

// `ranks` may be null.
Served Serve(bool finds, RunAhead run_ahead, RecordDecode record, bool all_greedy,
             std::shared_ptr<Ranks> ranks = nullptr) {
  LargestBackend backend(finds);
  Model model = RandomQuantisedModel(backend, TiniestConfig(), 1);
  model.ranks = std::move(ranks);
  EngineOptions options;
  options.run_ahead = run_ahead;
  options.runner = {.max_tokens = 96,
                    .max_sequences = 9,  // decoded as 9 and 10
                    .memory_bytes = int64_t{64} << 20,
                    .max_pages = 200,
                    .record_decode = record};
  Engine engine(backend, model, options);
  Outcomes outcomes;
  std::mt19937 rng(5);
  std::vector<RequestId> ids;
  for (int i = 0; i < 30; ++i) {
    Request request{.prompt = RandomIds(rng, 1 + static_cast<int64_t>(rng() % 80)),
                    .max_new_tokens = 1 + static_cast<int64_t>(rng() % 30)};
    if (!all_greedy && i % 10 == 3) request.sampling = {.temperature = 1.0f, .seed = rng()};
    if (!all_greedy && i % 10 == 5) request.sampling = {.repetition_penalty = 1.5f};
    if (!all_greedy && i % 10 == 7) request.sampling = {.num_logprobs = 0};
    ids.push_back(engine.Submit(request, outcomes.Sink())->id());
  }
  while (engine.Step()) {
  }
  Served served{.found = backend.found(), .sampled = backend.samples()};
  for (const RequestId id : ids) {
    outcomes.CheckEndedOnce(id);
    served.outputs.push_back(outcomes[id].ids);
  }
  return served;
}

TEST(EngineLargest, GreedyChoicesOfLmHeadAreThoseOfItsLogits) {
  for (const RunAhead run_ahead : {RunAhead::kNever, RunAhead::kAlways}) {
    for (const RecordDecode record : {RecordDecode::kNever, RecordDecode::kAlways}) {
      for (const bool all_greedy : {true, false}) {
        const Served plain = Serve(false, run_ahead, record, all_greedy);
        const Served found = Serve(true, run_ahead, record, all_greedy);
        EXPECT_EQ(found.outputs, plain.outputs);
        EXPECT_EQ(plain.found, 0);
        EXPECT_GT(found.found, 0);
        EXPECT_EQ(found.sampled == 0, all_greedy);
        EXPECT_EQ(found.found + found.sampled, plain.sampled);
      }
    }
  }
}

// A sampler that may have rules of its own.
class CountingSampler final : public TokenSampler {
 public:
  CountingSampler(Backend& backend, int64_t& calls) : inner_(backend), calls_(calls) {}
  std::unique_ptr<ChosenTokens> Start(const Tensor& logits, std::span<const SampleRow> rows,
                                      const Tensor& ids) override {
    ++calls_;
    return inner_.Start(logits, rows, ids);
  }

 private:
  BackendTokenSampler inner_;
  int64_t& calls_;
};

EngineOptions OfFewPages() {
  EngineOptions options;
  options.runner = {
      .max_tokens = 96, .max_sequences = 9, .memory_bytes = int64_t{64} << 20, .max_pages = 20};
  return options;
}

TEST(EngineLargest, ASamplerOfItsOwnIsAskedForGreedyTokensToo) {
  LargestBackend backend(true);
  const Model model = RandomQuantisedModel(backend, TiniestConfig(), 1);
  int64_t calls = 0;
  Engine engine(backend, model, OfFewPages(), std::make_unique<CountingSampler>(backend, calls));
  Outcomes outcomes;
  const RequestId id =
      engine.Submit({.prompt = {1, 2}, .max_new_tokens = 5}, outcomes.Sink())->id();
  while (engine.Step()) {
  }
  outcomes.CheckEndedOnce(id);
  EXPECT_EQ(calls, 5);
  EXPECT_EQ(backend.found(), 0);
}

class NanBackend final : public HalfLogitBackend {
 public:
  bool FindsLargest(const PreparedLinear& /*lm_head*/) const override { return true; }
  void Linear(const LinearArgs& args) override {
    if (!args.largest.defined()) return HalfLogitBackend::Linear(args);
    std::fill_n(args.largest.as<int32_t>(), args.largest.num_elements(), -1);
  }
};

TEST(EngineLargest, RowsWithoutALargestEndTheirRequests) {
  NanBackend backend;
  const Model model = RandomQuantisedModel(backend, TiniestConfig(), 1);
  Engine engine(backend, model, OfFewPages());
  Outcomes outcomes;
  const RequestId id =
      engine.Submit({.prompt = {1, 2}, .max_new_tokens = 5}, outcomes.Sink())->id();
  while (engine.Step()) {
  }
  outcomes.CheckEndedOnce(id);
  EXPECT_EQ(outcomes[id].finishes[0].reason, FinishReason::kError);
}

// Ranks find it through their connection.
class LargestRanks final : public Ranks {
 public:
  int64_t found() const { return found_; }  // calls
  Share share() const override { return {}; }
  void Sum(const Tensor& /*values*/) override {}
  void Linear(Backend& backend, const LinearArgs& linear) override {
    found_ += linear.largest.defined();
    Ranks::Linear(backend, linear);
  }
  void Fail() override {}
  void Check() const override {}

 private:
  int64_t found_ = 0;
};

TEST(EngineLargest, RanksAreAskedForTheLargestToo) {
  for (const bool all_greedy : {true, false}) {
    const auto ranks = std::make_shared<LargestRanks>();
    const Served alone = Serve(true, RunAhead::kAlways, RecordDecode::kAlways, all_greedy);
    const Served found = Serve(true, RunAhead::kAlways, RecordDecode::kAlways, all_greedy, ranks);
    EXPECT_EQ(found.outputs, alone.outputs);
    EXPECT_EQ(found.sampled, alone.sampled);
    EXPECT_EQ(ranks->found(), found.found);
    EXPECT_GT(ranks->found(), 0);
  }
}

}  // namespace
}  // namespace fireq::test
