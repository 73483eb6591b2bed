// The forward pass against an independent double-precision one, on every switch a family has.
#include "fireq/model/llama.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <random>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/engine/session.h"
#include "fireq/model/batch.h"
#include "fireq/model/kv_cache.h"
#include "fireq/model/model.h"
#include "tests/io/io_testing.h"
#include "tests/support/random_ids.h"
#include "tests/support/tiny_llama.h"
#include "tests/support/tiny_quantized.h"

namespace fireq::test {
namespace {

struct Case {
  std::string name;
  ModelConfig config;
};

std::vector<Case> Cases() {
  std::vector<Case> out{{"gqa", TinyConfig()}};
  ModelConfig c = TinyConfig();
  c.num_kv_heads = c.num_heads;
  out.push_back({"mha", c});
  c = TinyConfig();
  c.tied_embeddings = true;
  out.push_back({"tied", c});
  c = TinyConfig();
  c.rope = {.theta = 10000.0,
            .scaling = RopeScaling::kLlama3,
            .factor = 8.0,
            .low_freq_factor = 1.0,
            .high_freq_factor = 4.0,
            .original_context = 64};
  out.push_back({"llama3_rope", c});
  c = TinyConfig();
  c.family = "qwen2";
  c.architecture = "Qwen2ForCausalLM";
  c.qkv_bias = true;
  out.push_back({"qwen2", c});
  c = TinyConfig();
  c.family = "qwen3";
  c.architecture = "Qwen3ForCausalLM";
  c.qk_norm = true;
  out.push_back({"qwen3", c});
  return out;
}

class FloatForward : public testing::TestWithParam<Case> {};

TEST_P(FloatForward, LogitsOfEveryPositionMatchTheReference) {
  const ModelConfig& config = GetParam().config;
  const TemporaryDirectory directory;
  const TinyWeights weights = RandomWeights(config, 7);
  WriteHuggingFace(directory.path(), config, weights);
  const auto backend = MakeCpuBackend({.num_threads = 2});
  const Model model = LoadModel(*backend, directory.path());

  std::mt19937 rng(42);
  const std::vector<int32_t> ids =
      RandomIds(rng, 150, config.vocab_size);  // crosses two page borders
  const auto expected = ReferenceLogits(config, weights, ids);
  Session session(*backend, model, {.prefill_chunk = 97});
  size_t at = 0;
  // A long chunk, one across the chunk limit, then one token at a time.
  for (const size_t count : {70u, 75u, 1u, 1u, 3u}) {
    const Tensor logits = session.Append({ids.data() + at, count});
    at += count;
    for (int64_t v = 0; v < config.vocab_size; ++v)
      ASSERT_NEAR(logits.as<float>()[v], expected[at - 1][static_cast<size_t>(v)], 2e-4)
          << "position " << at - 1;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, FloatForward, testing::ValuesIn(Cases()),
                         [](const auto& each) { return each.param.name; });

TEST(Session, TruncateForgetsAndRepeatsExactly) {
  const TemporaryDirectory directory;
  WriteHuggingFace(directory.path(), TinyConfig(), RandomWeights(TinyConfig(), 3));
  const auto backend = MakeCpuBackend({.num_threads = 1});
  const Model model = LoadModel(*backend, directory.path());
  std::mt19937 rng(42);
  const std::vector<int32_t> ids = RandomIds(rng, 80, model.config.vocab_size);
  Session session(*backend, model, {});
  session.Append({ids.data(), 40});
  const Tensor first = session.Append({ids.data() + 40, 1});
  session.Append({ids.data() + 41, 30});
  session.Truncate(40);
  const Tensor again = session.Append({ids.data() + 40, 1});
  for (int64_t v = 0; v < model.config.vocab_size; ++v)
    EXPECT_EQ(first.as<float>()[v], again.as<float>()[v]);
}

TEST(Session, RefusesEmptyUnknownAndOverlong) {
  const TemporaryDirectory directory;
  WriteHuggingFace(directory.path(), TinyConfig(), RandomWeights(TinyConfig(), 3));
  const auto backend = MakeCpuBackend({.num_threads = 1});
  const Model model = LoadModel(*backend, directory.path());
  Session session(*backend, model, {.max_context = 8});
  EXPECT_THROW(session.Append({}), Error);
  EXPECT_THROW(session.Append(std::vector<int32_t>{67}), Error);
  EXPECT_THROW(session.Append(std::vector<int32_t>{-1}), Error);
  EXPECT_THROW(session.Append(std::vector<int32_t>(9, 1)), Error);
  EXPECT_EQ(session.Append(std::vector<int32_t>(8, 1)).num_elements(), 67);
}

// What a forward leaves: hidden states and the bytes of the cache.
struct Forwarded {
  Tensor hidden;
  std::vector<Tensor> pages;
};

Forwarded ForwardOnce(Backend& backend, const Model& model, std::span<const SequenceStep> steps,
                      const WantedRows* wanted, int64_t fillers = 0) {
  ForwardContext context = MakeContext(backend, model, 512, Products::kTable);
  context.reduction = Reduction::kBatchInvariant;
  KvCache cache(backend, model.config, model.quant.arithmetic.kv, model.config.num_layers, 4);
  for (const KvLayer& layer : cache.layers())
    std::memset(layer.pages.data(), 0, static_cast<size_t>(layer.pages.size_bytes()));
  int64_t tokens = fillers;
  for (const SequenceStep& step : steps) tokens += std::ssize(step.ids);
  BatchArrays arrays(backend, tokens, std::ssize(steps) + fillers, MaxPages(steps));
  const BatchView batch = arrays.Fill(steps, MaxPages(steps), fillers);
  ForwardBuffers buffers(context, batch.num_tokens);
  const Tensor hidden =
      ForwardHidden(context, buffers, model.weights, batch, cache.layers(), wanted);
  Forwarded out;
  if (hidden.defined()) out.hidden = backend.Download(hidden);
  for (const KvLayer& layer : cache.layers()) out.pages.push_back(backend.Download(layer.pages));
  return out;
}

bool SameBytes(const Tensor& a, const Tensor& b) {
  return a.size_bytes() == b.size_bytes() &&
         std::memcmp(a.data(), b.data(), static_cast<size_t>(a.size_bytes())) == 0;
}

TEST(ForwardHidden, WantedRowsAreThoseOfTheWholeAndTheCacheIsTheSame) {
  const auto backend = MakeCpuBackend({.num_threads = 1});
  const Model model = RandomQuantisedModel(*backend, TiniestConfig(), 11);
  std::mt19937 rng(8);
  const std::vector<int32_t> ids = RandomIds(rng, 91, model.config.vocab_size);
  const std::vector<int32_t> first_pages = {2, 0}, second_pages = {1};
  const SequenceStep steps[] = {{{ids.data(), 80}, 0, first_pages},
                                {{ids.data() + 80, 11}, 0, second_pages}};
  const Forwarded all = ForwardOnce(*backend, model, steps, nullptr);
  ASSERT_EQ(all.hidden.dim(0), 91);

  const std::vector<int32_t> rows = {79, 3, 90};
  const WantedRows wanted{Tensor::FromVector(DType::kI32, {3}, rows),
                          Tensor::Empty(DType::kBF16, {3, model.config.hidden})};
  const Forwarded some = ForwardOnce(*backend, model, steps, &wanted);
  ASSERT_EQ(some.hidden.dim(0), 3);
  for (int64_t i = 0; i < 3; ++i) {
    const int64_t row = rows[static_cast<size_t>(i)];
    EXPECT_TRUE(SameBytes(some.hidden.Rows(i, i + 1), all.hidden.Rows(row, row + 1))) << row;
  }
  const WantedRows nothing;
  const Forwarded none = ForwardOnce(*backend, model, steps, &nothing);
  EXPECT_FALSE(none.hidden.defined());
  for (size_t layer = 0; layer < all.pages.size(); ++layer) {
    EXPECT_TRUE(SameBytes(some.pages[layer], all.pages[layer])) << layer;
    EXPECT_TRUE(SameBytes(none.pages[layer], all.pages[layer])) << layer;
  }
  // Fillers change nothing of anybody's.
  const Forwarded filled = ForwardOnce(*backend, model, steps, nullptr, 7);
  ASSERT_EQ(filled.hidden.dim(0), 98);
  EXPECT_TRUE(SameBytes(filled.hidden.Rows(0, 91), all.hidden));
  for (size_t layer = 0; layer < all.pages.size(); ++layer)
    EXPECT_TRUE(SameBytes(filled.pages[layer], all.pages[layer])) << layer;
}

std::vector<int32_t> Values(const Tensor& tensor) {
  return {tensor.as<int32_t>(), tensor.as<int32_t>() + tensor.num_elements()};
}

TEST(BatchArrays, FillersAreSequencesWithoutTokensAndTokensOfNobody) {
  using I32 = std::vector<int32_t>;
  const auto backend = MakeCpuBackend({.num_threads = 1});
  BatchArrays arrays(*backend, 6, 5, 2);
  const I32 ids = {5, 6, 7}, pages = {4, 3};
  // What an earlier step has left does not show.
  const std::vector<SequenceStep> before(5, {{ids.data(), 1}, 70, pages});
  arrays.Fill(before, 2);
  const SequenceStep steps[] = {{{ids.data(), 1}, 64, pages}, {{ids.data() + 1, 2}, 3, pages}};
  const BatchView batch = arrays.Fill(steps, 2, 3);
  EXPECT_EQ(batch.num_tokens, 6);
  EXPECT_EQ(batch.num_sequences, 5);
  EXPECT_EQ(batch.max_query_len, 2);
  EXPECT_EQ(batch.max_context, 65);
  EXPECT_EQ(Values(batch.ids), (I32{5, 6, 7, 0, 0, 0}));
  EXPECT_EQ(Values(batch.positions), (I32{64, 3, 4, 0, 0, 0}));
  EXPECT_EQ(Values(batch.query_start), (I32{0, 1, 3, 3, 3, 3}));
  EXPECT_EQ(Values(batch.context_len), (I32{65, 5, 0, 0, 0}));
  EXPECT_EQ(Values(batch.page_table), (I32{4, 3, 4, 3, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(batch.query_lens, (I32{1, 2, 0, 0, 0}));
  EXPECT_EQ(batch.context_lens, (I32{65, 5, 0, 0, 0}));
  EXPECT_THROW(arrays.Fill(steps, 2, 200), Error);
}

}  // namespace
}  // namespace fireq::test
