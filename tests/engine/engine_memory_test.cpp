// The engine's budget is what it takes from the backend, at most, from its first to its last step.
#include <memory>
#include <tuple>

#include "tests/engine/engine_testing.h"
#include "tests/support/half_logit_backend.h"

namespace fireq::test {
namespace {

// A backend on the CPU with a count of the bytes that are out, and of how large its steps are.
class CountingBackend final : public HalfLogitBackend {
 public:
  struct Count {
    int64_t now = 0;
    int64_t most = 0;
  };

  Count& count() { return *count_; }
  int64_t scratch_bytes() const { return scratch_.size_bytes(); }
  const StepLimits& promised() const { return promised_; }
  const StepLimits& most() const { return most_; }

  Tensor Allocate(DType dtype, Shape shape) override {
    return Counted(cpu().Allocate(dtype, std::move(shape)));
  }
  // As a device has it: a copy of its own.
  Tensor Upload(const Tensor& host) override {
    const Tensor copy = Allocate(host.dtype(), host.shape());
    cpu().Copy(host, copy);
    return copy;
  }
  // As a device that needs memory of its own.
  int64_t Reserve(const StepLimits& limits) override {
    promised_ = limits;
    scratch_ = {};
    scratch_ = Allocate(DType::kU8,
                        {limits.max_tokens * 640 + limits.max_logit_rows * limits.lm_head->n()});
    return scratch_.size_bytes();
  }
  void Linear(const LinearArgs& args) override {
    if (args.w == promised_.lm_head) Raise(most_.max_logit_rows, args.y.dim(0));
    HalfLogitBackend::Linear(args);
  }
  void Attention(const AttentionArgs& args) override {
    Raise(most_.max_tokens, args.batch->num_tokens);
    Raise(most_.max_sequences, args.batch->num_sequences);
    Raise(most_.max_context, args.batch->max_context);
    most_.num_heads = args.num_heads;
    most_.kv_heads = args.kv.layout.kv_heads;
    most_.head_dim = args.kv.layout.head_dim;
    most_.kv_grid = args.kv.layout.grid;
    HalfLogitBackend::Attention(args);
  }

 private:
  static void Raise(int64_t& most, int64_t to) { most = std::max(most, to); }

  Tensor Counted(const Tensor& tensor) {
    const int64_t bytes = tensor.size_bytes();
    count_->now += bytes;
    count_->most = std::max(count_->most, count_->now);
    std::shared_ptr<void> owner(tensor.data(),
                                [count = count_, bytes, tensor](void*) { count->now -= bytes; });
    return Tensor(tensor.dtype(), tensor.shape(), tensor.data(), std::move(owner));
  }

  std::shared_ptr<Count> count_ = std::make_shared<Count>();
  StepLimits promised_, most_;
  Tensor scratch_;  // behind what counts it
};

TEST(EngineMemory, IsSizedFromTheBudgetAndNeverExceedsIt) {
  CountingBackend backend;
  const Model model = RandomQuantisedModel(backend, TiniestConfig(), 1);
  const int64_t weights = backend.count().now;
  for (const int64_t budget : {int64_t{150} << 10, int64_t{1} << 20}) {
    EngineOptions options;
    options.runner = {.max_tokens = 64, .max_sequences = 16, .memory_bytes = budget};
    Engine engine(backend, model, options);
    const Runner& runner = engine.runner();
    const int64_t page_bytes = runner.cache_bytes() / runner.num_pages();
    EXPECT_LE(runner.working_bytes() + runner.cache_bytes(), budget);
    EXPECT_EQ(engine.metrics().working_bytes, runner.working_bytes());
    EXPECT_EQ(engine.metrics().cache_bytes, runner.cache_bytes());
    EXPECT_GT(runner.working_bytes() + runner.cache_bytes() + page_bytes, budget);
    // All of it is taken by now but for what sampling uploads.
    const int64_t sampling = BackendTokenSampler::SizeBytes(16, runner.max_context()) + 16 * 4;
    EXPECT_EQ(backend.count().now - weights,
              runner.working_bytes() + runner.cache_bytes() - sampling);

    Outcomes outcomes;
    std::mt19937 rng(2);
    for (int i = 0; i < 60; ++i) {
      const int64_t length = 1 + static_cast<int64_t>(rng() % 120);
      ASSERT_TRUE(
          engine
              .Submit({.prompt = RandomIds(rng, std::min(length, engine.max_sequence_tokens())),
                       .max_new_tokens = 30,
                       .sampling = {.repetition_penalty = 1.1f, .num_logprobs = kMaxLogprobs}},
                      outcomes.Sink())
              .has_value());
    }
    while (engine.Step()) {
    }
    EXPECT_EQ(outcomes.size(), 60u);
    EXPECT_LE(backend.count().most - weights, budget);
    // Histories of full length for every sequence at once are kept room for, and never come.
    const int64_t histories = 16 * 512 * SizeBytes(DType::kI32);
    EXPECT_GT(backend.count().most - weights, budget * 9 / 10 - histories);
    backend.count().most = 0;
  }
  EXPECT_EQ(backend.count().now, weights + backend.scratch_bytes());
}

// What a backend reserves for is reached and never exceeded: 17 sequences are decoded as 18 where a
// step has so many tokens.
TEST(EngineMemory, NoStepIsLargerThanTheBackendWasTold) {
  for (const auto& [reduction, max_tokens, unfilled] : {std::tuple(Reduction::kFastest, 64, 0),
                                                        {Reduction::kFastest, 17, 0},
                                                        {Reduction::kBatchInvariant, 64, 1}}) {
    CountingBackend backend;
    const Model model = RandomQuantisedModel(backend, TiniestConfig(), 1);
    EngineOptions options;
    options.runner = {.max_context = 100,
                      .max_tokens = max_tokens,
                      .max_sequences = 17,
                      .memory_bytes = int64_t{4} << 20,
                      .reduction = reduction,
                      .record_decode = RecordDecode::kAlways};
    Engine engine(backend, model, options);
    Outcomes outcomes;
    std::mt19937 rng(3);
    for (int i = 0; i < 40; ++i) {
      ASSERT_TRUE(
          engine
              .Submit({.prompt = RandomIds(rng, i == 0 ? 64 : 1 + i % 40), .max_new_tokens = 80},
                      outcomes.Sink())
              .has_value());
    }
    while (engine.Step()) {
    }
    const StepLimits& promised = backend.promised();
    const StepLimits& most = backend.most();
    EXPECT_EQ(most.max_tokens, promised.max_tokens);
    EXPECT_EQ(most.max_sequences + unfilled, promised.max_sequences);
    EXPECT_EQ(most.max_logit_rows + unfilled, promised.max_logit_rows);
    EXPECT_EQ(most.max_context, promised.max_context);
    EXPECT_EQ(most.num_heads, promised.num_heads);
    EXPECT_EQ(most.kv_heads, promised.kv_heads);
    EXPECT_EQ(most.head_dim, promised.head_dim);
    EXPECT_EQ(most.kv_grid, promised.kv_grid);
    EXPECT_EQ(promised.lm_head, model.weights.lm_head.get());
    EXPECT_EQ(promised.memory_bytes, options.runner.memory_bytes);
  }
}

TEST(EngineMemory, TooSmallABudgetIsRefusedWithItsFigures) {
  const TinyServing serving;
  EngineOptions options = serving.Options(0);
  options.runner.memory_bytes = 4096;
  try {
    Engine engine(*serving.backend, serving.model, options);
    FAIL() << "4096 bytes were enough";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
    EXPECT_NE(std::string(error.what()).find("4096"), std::string::npos);
  }
}

}  // namespace
}  // namespace fireq::test
