#include "fireq/measure/phases.h"

#include <gtest/gtest.h>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/model/synthetic.h"
#include "tests/support/half_logit_backend.h"

namespace fireq {
namespace {

struct Tiny {
  std::unique_ptr<Backend> backend = MakeCpuBackend({.num_threads = 1});
  Model model = MakeSyntheticModel(*backend, SyntheticConfig("tiny"));
  MeasureOptions options{.max_tokens = 64, .memory_bytes = int64_t{64} << 20};
};

TEST(Phases, CountTheTokensTheyAreAbout) {
  Tiny t;
  EXPECT_EQ(MeasurePrefill(*t.backend, t.model, t.options, {3, 50, 1}, 1).tokens, 150);
  t.options.record_decode = RecordDecode::kAlways;
  const PhaseSpeed decode = MeasureDecode(*t.backend, t.model, t.options, {4, 70, 10});
  EXPECT_EQ(decode.tokens, 40);
  EXPECT_EQ(decode.steps, 10);
  EXPECT_EQ(decode.recorded_steps, 2);  // one of eight
  EXPECT_GT(decode.recorded_seconds, 0.0);
  EXPECT_LE(decode.recorded_seconds, decode.seconds);
  const ServeSpeed serve = MeasureServe(*t.backend, t.model, t.options, {2, 20, 6}, 5);
  EXPECT_EQ(serve.all.tokens, 30);
  EXPECT_EQ(serve.first_token_us.size(), 5u);
  EXPECT_EQ(serve.metrics.num_preempted, 0);
}

TEST(Phases, ProfileCountsEveryOp) {
  Tiny t;
  OpProfile profile = ProfileOps(*t.backend, t.model, t.options, {2, 96, 1});
  // 192 prompt tokens of two sequences in steps of 64; two layers. No row of the first step
  // samples, so nothing goes on behind K and V in its last layer.
  EXPECT_EQ(profile.prefill["attention"].calls, 5);
  EXPECT_EQ(profile.prefill["linear 512 x 256"].calls, 6);
  EXPECT_EQ(profile.decode_step["attention"].calls, 2);
  EXPECT_EQ(profile.decode_step["lm_head 512 x 256"].calls, 1);
  EXPECT_EQ(profile.decode_step["sample"].calls, 1);
  for (const auto& [name, time] : profile.prefill) EXPECT_GT(time.microseconds, 0.0) << name;
}

// Logits are of the type that they would have without a profile, and lm_head is told by them.
TEST(Phases, ProfileLeavesLogitsAsTheBackendMakesThem) {
  test::HalfLogitBackend backend;
  const Model model = MakeSyntheticModel(backend, SyntheticConfig("tiny"));
  OpProfile profile = ProfileOps(backend, model, Tiny().options, {2, 96, 1});
  EXPECT_GT(backend.samples(), 0);
  EXPECT_EQ(profile.decode_step["lm_head 512 x 256"].calls, 1);
  EXPECT_EQ(profile.decode_step["lm_head 512 x 256"].op_class, OpClass::kLmHead);
}

}  // namespace
}  // namespace fireq
