// The engine's budget is what it takes from the backend, at most, from its first to its last step.
#include <memory>

#include "tests/engine/engine_testing.h"

namespace fireq::test {
namespace {

// The CPU backend with a count of the bytes that are out.
class CountingBackend final : public Backend {
 public:
  struct Count {
    int64_t now = 0;
    int64_t most = 0;
  };

  CountingBackend() : cpu_(MakeCpuBackend({.num_threads = 1})) {}
  Count& count() { return *count_; }
  int64_t scratch_bytes() const { return scratch_.size_bytes(); }

  std::string name() const override { return cpu_->name(); }
  Tensor Allocate(DType dtype, Shape shape) override {
    return Counted(cpu_->Allocate(dtype, std::move(shape)));
  }
  // As a device has it: a copy of its own.
  Tensor Upload(const Tensor& host) override {
    const Tensor copy = Allocate(host.dtype(), host.shape());
    cpu_->Copy(host, copy);
    return copy;
  }
  Tensor Download(const Tensor& tensor) override { return cpu_->Download(tensor); }
  void Copy(const Tensor& from, const Tensor& to) override { cpu_->Copy(from, to); }
  void UploadTo(const Tensor& host, const Tensor& to) override { cpu_->UploadTo(host, to); }
  void Synchronize() override { cpu_->Synchronize(); }
  // As a device that needs memory of its own.
  int64_t Reserve(const StepLimits& limits) override {
    scratch_ = {};
    scratch_ = Allocate(DType::kU8,
                        {limits.max_tokens * 640 + limits.max_logit_rows * limits.lm_head->n()});
    return scratch_.size_bytes();
  }
  std::shared_ptr<const PreparedLinear> Prepare(LinearSpec spec) override {
    return cpu_->Prepare(std::move(spec));
  }
  void Embed(const EmbedArgs& args) override { cpu_->Embed(args); }
  void RmsNorm(const RmsNormArgs& args) override { cpu_->RmsNorm(args); }
  void Quantize(const QuantizeArgs& args) override { cpu_->Quantize(args); }
  void Linear(const LinearArgs& args) override { cpu_->Linear(args); }
  void RopeKvWrite(const RopeKvWriteArgs& args) override { cpu_->RopeKvWrite(args); }
  void Attention(const AttentionArgs& args) override { cpu_->Attention(args); }
  void GatherRows(const Tensor& x, const Tensor& rows, const Tensor& out) override {
    cpu_->GatherRows(x, rows, out);
  }
  void Sample(const SampleArgs& args) override { cpu_->Sample(args); }

 private:
  Tensor Counted(const Tensor& tensor) {
    const int64_t bytes = tensor.size_bytes();
    count_->now += bytes;
    count_->most = std::max(count_->most, count_->now);
    std::shared_ptr<void> owner(tensor.data(),
                                [count = count_, bytes, tensor](void*) { count->now -= bytes; });
    return Tensor(tensor.dtype(), tensor.shape(), tensor.data(), std::move(owner));
  }

  std::unique_ptr<Backend> cpu_;
  std::shared_ptr<Count> count_ = std::make_shared<Count>();
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
