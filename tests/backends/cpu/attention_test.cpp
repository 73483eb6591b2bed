// Attention over the paged cache against double precision, both sets of kernels.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>

#include "tests/backends/cpu/kernel_sets.h"
#include "tests/support/reference_attention.h"
#include "tests/support/reference_linear.h"

namespace fireq {
namespace {

using testing::AttentionCase;
using testing::AttentionShape;
using testing::ProbRounding;

Tensor Ints(const std::vector<int32_t>& values) {
  return Tensor::FromVector(DType::kI32, {static_cast<int64_t>(values.size())}, values);
}

BatchView MakeBatch(const AttentionCase& c) {
  BatchView batch;
  batch.num_tokens = c.num_tokens();
  batch.num_sequences = c.num_sequences();
  batch.query_start = Ints(c.query_start);
  batch.context_len = Ints(c.context_len);
  batch.page_table = Ints(c.page_table).Reshape({c.num_sequences(), c.max_pages});
  return batch;
}

Tensor RunAttention(Backend& backend, const AttentionCase& c, bool e4m3_probs) {
  const BatchView batch = MakeBatch(c);
  const int64_t width = int64_t{c.num_heads} * c.layout.head_dim;
  AttentionArgs args;
  args.q.values = Tensor::FromVector(DType::kE4M3, {c.num_tokens(), width}, c.q);
  args.q.scale = Tensor::FromVector(DType::kF32, {c.num_tokens(), c.num_heads}, c.q_scale);
  args.kv.layout = c.layout;
  args.kv.pages = Tensor::FromVector(
      DType::kU8,
      {static_cast<int64_t>(c.pages.size()) / c.layout.page_bytes(), c.layout.page_bytes()},
      c.pages);
  args.batch = &batch;
  args.num_heads = c.num_heads;
  args.e4m3_probs = e4m3_probs;
  args.out = testing::Poisoned(DType::kF32, {c.num_tokens(), width});
  backend.Attention(args);
  return args.out;
}

std::vector<AttentionShape> Shapes() {
  std::vector<AttentionShape> shapes;
  const auto add = [&](std::vector<int32_t> query, std::vector<int32_t> context, int heads,
                       int kv_heads, int dim, KvGrid grid) {
    shapes.push_back({std::move(query), std::move(context), heads, {grid, kv_heads, dim}});
  };
  add({1}, {1}, 9, 3, 64, KvGrid::kAsymmetric);
  add({130}, {130}, 9, 3, 64, KvGrid::kAsymmetric);
  add({70, 0, 1, 33}, {70, 0, 300, 97}, 8, 8, 8, KvGrid::kSymmetric);
  add({1, 1, 1}, {64, 65, 1030}, 9, 1, 64, KvGrid::kSigned);
  add({3}, {700}, 4, 2, 128, KvGrid::kAsymmetric);
  add({1, 1, 2}, {1, 1030, 66}, 9, 3, 64, KvGrid::kSigned);
  add({1, 1}, {130, 63}, 4, 1, 192, KvGrid::kAsymmetric);
  add({2}, {300}, 2, 1, 256, KvGrid::kAsymmetric);
  add({129, 5}, {129, 261}, 8, 2, 128, KvGrid::kSigned);
  add({17}, {40}, 2, 1, 96, KvGrid::kAsymmetric);
  add({5}, {70}, 6, 2, 40, KvGrid::kAsymmetric);
  return shapes;
}

// With probabilities rounded and not.
void ExpectAgreesWithDoublePrecision(Backend& backend, const AttentionCase& c,
                                     const std::string& what) {
  for (const bool e4m3 : {true, false}) {
    const Tensor out = RunAttention(backend, c, e4m3);
    const std::vector<double> expected =
        testing::ReferenceAttention(c, e4m3 ? ProbRounding::kE4M3 : ProbRounding::kNone);
    const std::vector<float> actual(out.as<float>(), out.as<float>() + out.num_elements());
    // A probability at a rounding boundary may fall to the other side: 1/16 of one term of many.
    EXPECT_LT(testing::RelativeError(actual, expected), e4m3 ? 2e-3 : 1e-5) << what;
  }
}

class CpuAttentionTest : public ::testing::TestWithParam<testing::KernelSet> {};

TEST_P(CpuAttentionTest, AgreesWithDoublePrecision) {
  const auto backend = testing::MakeBackend(2, GetParam());
  uint32_t seed = 7;
  for (const AttentionShape& shape : Shapes()) {
    const AttentionCase c = testing::MakeAttentionCase(shape, seed++);
    ExpectAgreesWithDoublePrecision(
        *backend, c,
        StrCat("case ", seed, " heads ", shape.num_heads, " dim ", shape.layout.head_dim));
  }
}

// r, the power of two that P' is rounded by, then grows on the way, and splits end with another.
TEST_P(CpuAttentionTest, ValuesOfOtherMagnitudeFromPageToPage) {
  const auto backend = testing::MakeBackend(2, GetParam());
  for (const bool growing : {true, false}) {
    for (const int32_t query : {1, 20}) {
      AttentionCase c = testing::MakeAttentionCase(
          {{query}, {800}, 6, {KvGrid::kAsymmetric, 2, 64}}, growing ? 11 : 12);
      for (int token = 0; token < 800; ++token) {
        const int page = token / kTokensPerPage;
        uint8_t* bytes = c.pages.data() + c.page_table[static_cast<size_t>(page)] *
                                              static_cast<int64_t>(c.layout.page_bytes());
        for (int head = 0; head < 2; ++head) {
          uint8_t* block = bytes + c.layout.head_offset(head);
          const int64_t scale = c.layout.v_scale_offset(), zero = c.layout.v_zero_offset();
          KvScale s = GetKvScale(block, scale, zero, token % kTokensPerPage);
          s.scale = FloatToBf16(std::ldexp(Bf16ToFloat(s.scale), (growing ? page : 12 - page) / 2));
          SetKvScale(block, scale, zero, token % kTokensPerPage, s);
        }
      }
      ExpectAgreesWithDoublePrecision(*backend, c, StrCat(query, " growing ", growing));
    }
  }
}

TEST_P(CpuAttentionTest, BitIdenticalForAnyNumberOfThreads) {
  for (const AttentionShape& shape :
       {AttentionShape{{1}, {2000}, 9, {KvGrid::kAsymmetric, 3, 64}},
        AttentionShape{{150}, {400}, 9, {KvGrid::kAsymmetric, 3, 64}}}) {
    const AttentionCase c = testing::MakeAttentionCase(shape, 3);
    Tensor first;
    for (const int threads : {1, 2, 5}) {
      const Tensor out = RunAttention(*testing::MakeBackend(threads, GetParam()), c, true);
      if (!first.defined()) first = out;
      EXPECT_EQ(std::memcmp(first.data(), out.data(), static_cast<size_t>(out.size_bytes())), 0);
    }
  }
}

TEST_P(CpuAttentionTest, NanInOneQueryOrKeyPoisonsOnlyWhatSeesIt) {
  const AttentionShape shape{{20}, {20}, 2, {KvGrid::kAsymmetric, 1, 64}};
  const auto backend = testing::MakeBackend(2, GetParam());
  AttentionCase c = testing::MakeAttentionCase(shape, 5);
  c.q_scale[2 * 7 + 1] = std::nanf("");
  const Tensor by_query = RunAttention(*backend, c, true);
  c.q_scale[2 * 7 + 1] = 0.01f;
  uint8_t* block = c.pages.data() + c.page_table[0] * c.layout.page_bytes();
  SetKvScale(block, c.layout.v_scale_offset(), c.layout.v_zero_offset(), 11, {0x7FC0, 0});
  const Tensor by_value = RunAttention(*backend, c, true);
  for (int64_t i = 0; i < by_query.num_elements(); ++i) {
    EXPECT_EQ(std::isnan(by_query.as<float>()[i]), i / 64 == 2 * 7 + 1) << i;
    EXPECT_EQ(std::isnan(by_value.as<float>()[i]), i / 128 >= 11) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, CpuAttentionTest, ::testing::ValuesIn(testing::KernelSets()),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace fireq
