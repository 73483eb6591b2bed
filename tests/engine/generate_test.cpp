// One request on a session that has served others.
#include "fireq/engine/generate.h"

#include "tests/engine/engine_testing.h"

namespace fireq::test {
namespace {

class GenerateTest : public testing::Test {
 protected:
  Generation Run(const std::vector<int32_t>& prompt, const GenerateParams& params = {12, {}, {}},
                 const std::function<bool(int32_t)>& on_token = {}) {
    return Generate(session_, prompt, params, on_token);
  }
  std::vector<int32_t> Alone(const std::vector<int32_t>& prompt) const {
    return serving_.Alone({.prompt = prompt, .max_new_tokens = 12});
  }

  const TinyServing serving_;
  Session session_{*serving_.backend,
                   serving_.model,
                   {.products = Products::kTable, .reduction = Reduction::kBatchInvariant}};
  const std::vector<int32_t> prompt_ = {5, 9, 2, 30, 7, 1, 14};
};

TEST_F(GenerateTest, WhatIsInTheCacheIsNotRunAgainAndChangesNothing) {
  const Generation first = Run(prompt_);
  EXPECT_EQ(first.prefill_tokens, 7);
  EXPECT_EQ(first.ids, Alone(prompt_));
  EXPECT_EQ(first.reason, FinishReason::kLength);

  const Generation again = Run(prompt_);
  EXPECT_EQ(again.prefill_tokens, 1);  // the last one's logits are needed
  EXPECT_EQ(again.ids, first.ids);

  // The next turn of a chat: all but the last token of the answer has been run.
  std::vector<int32_t> turn = prompt_;
  turn.insert(turn.end(), first.ids.begin(), first.ids.end());
  turn.push_back(3);
  const Generation next = Run(turn);
  EXPECT_EQ(next.prefill_tokens, 2);
  EXPECT_EQ(next.ids, Alone(turn));

  // A prompt that parts from it, and one that is a beginning of it.
  std::vector<int32_t> other = prompt_;
  other[4] = 8;
  EXPECT_EQ(Run(other).prefill_tokens, 3);
  EXPECT_EQ(Run(other).ids, Alone(other));
  const std::vector<int32_t> beginning(prompt_.begin(), prompt_.begin() + 3);
  EXPECT_EQ(Run(beginning).prefill_tokens, 1);
  EXPECT_EQ(Run(beginning).ids, Alone(beginning));
}

TEST_F(GenerateTest, EndsForEachReason) {
  const std::vector<int32_t> all = Alone(prompt_);
  const Generation stopped = Run(prompt_, {12, {}, {all[3]}});
  const auto first = std::find(all.begin(), all.end(), all[3]) - all.begin();
  EXPECT_EQ(stopped.reason, FinishReason::kStopId);
  EXPECT_EQ(stopped.ids, std::vector<int32_t>(all.begin(), all.begin() + first));

  int seen = 0;
  const Generation cancelled = Run(prompt_, {12, {}, {}}, [&](int32_t) { return ++seen < 4; });
  EXPECT_EQ(cancelled.reason, FinishReason::kCancelled);
  EXPECT_EQ(cancelled.ids, std::vector<int32_t>(all.begin(), all.begin() + 4));

  const int64_t room = session_.max_context() - 7;
  const Generation full = Run(prompt_, {room + 100, {}, {}});
  EXPECT_EQ(full.reason, FinishReason::kContextFull);
  EXPECT_EQ(std::ssize(full.ids), room + 1);  // the last one is not run

  EXPECT_TRUE(Run(prompt_, {0, {}, {}}).ids.empty());
}

TEST_F(GenerateTest, ThePenaltySeesPromptAndOutput) {
  GenerateParams params{30, {.repetition_penalty = 1e9f}, {}};
  const Generation out = Run(prompt_, params);
  std::vector<int32_t> history = prompt_;
  Sampler sampler;
  Session session(*serving_.backend, serving_.model,
                  {.products = Products::kTable, .reduction = Reduction::kBatchInvariant});
  Tensor logits = session.Append(prompt_);
  for (size_t i = 0; i < out.ids.size(); ++i) {
    const std::span<const float> row(logits.as<float>(),
                                     static_cast<size_t>(logits.num_elements()));
    ASSERT_EQ(out.ids[i],
              sampler.Choose(params.sampling, row, history, static_cast<int64_t>(i)).id);
    history.push_back(out.ids[i]);
    logits = session.Append({&out.ids[i], 1});
  }
}

TEST_F(GenerateTest, RefusesWhatCannotBe) {
  EXPECT_THROW(Run({}), Error);
  EXPECT_THROW(Run({1, -1}), Error);
  EXPECT_THROW(Run(prompt_, {-1, {}, {}}), Error);
  EXPECT_THROW(Run(prompt_, {12, {.temperature = -1.0f}, {}}), Error);
  EXPECT_THROW(Run(std::vector<int32_t>(static_cast<size_t>(session_.max_context()) + 1, 2)),
               Error);
  EXPECT_EQ(Run(prompt_).ids, Alone(prompt_));  // and goes on
}

}  // namespace
}  // namespace fireq::test
