// A float model on the GPU against the CPU backend, and the whole quantiser on either.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/backends/sm90/f32/f32_backend.h"
#include "fireq/backends/sm90/fit/sm90_fitter.h"
#include "fireq/model/batch.h"
#include "fireq/model/kv_cache.h"
#include "fireq/model/llama.h"
#include "fireq/model/rope.h"
#include "fireq/model/synthetic_source.h"
#include "fireq/quant/block_io.h"
#include "fireq/quant/pipeline.h"
#include "tests/backends/sm90/needs_hopper.h"
#include "tests/io/io_testing.h"

namespace fireq {
namespace {

std::vector<int32_t> Ids(int64_t count, uint32_t seed) {
  std::mt19937 engine(seed);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(engine() % 512);
  return ids;
}

// Two blocks over two sequences, together and then the second alone: the residual stream behind
// each step.
std::vector<Tensor> RunBlocks(Backend& backend, const ModelConfig& config,
                              std::vector<quant::Block<float>>& blocks) {
  constexpr int64_t kLength = 200;
  ForwardContext context;
  context.backend = &backend;
  context.config = &config;
  const RopeTable rope = MakeRopeTable(config.rope, config.head_dim, kLength);
  context.rope_cos = backend.Upload(rope.cos);
  context.rope_sin = backend.Upload(rope.sin);
  ForwardBuffers buffers(context, kLength);
  const KvCache cache(backend, config, KvGrid::kFloat, std::ssize(blocks), 6);
  const std::vector<int32_t> ids = Ids(180, 3), first_pages = {4}, second_pages = {0, 2, 5};
  const auto part = [&](size_t begin, size_t count) {
    return std::span(ids).subspan(begin, count);
  };
  std::vector<Tensor> out;
  for (const std::vector<SequenceStep>& steps :
       {std::vector<SequenceStep>{{part(0, 37), 0, first_pages}, {part(37, 91), 0, second_pages}},
        std::vector<SequenceStep>{{part(128, 1), 37, first_pages},
                                  {part(129, 51), 91, second_pages}},
        std::vector<SequenceStep>{{part(0, 40), 142, second_pages}}}) {
    const BatchView batch = MakeBatch(backend, steps);
    std::mt19937 engine(9);
    std::normal_distribution<float> normal;
    Tensor host = Tensor::Empty(DType::kF32, {batch.num_tokens, config.hidden});
    for (int64_t i = 0; i < host.num_elements(); ++i) host.as<float>()[i] = normal(engine);
    const Tensor x = backend.Allocate(DType::kF32, host.shape());
    backend.UploadTo(host, x);
    for (size_t layer = 0; layer < blocks.size(); ++layer) {
      const BlockWeights weights = quant::PrepareBlock(backend, blocks[layer], config.head_dim);
      ForwardBlock(context, buffers, static_cast<int64_t>(layer), weights, batch,
                   cache.layers()[layer], x);
    }
    const Tensor result = backend.Download(x);
    Tensor copy = Tensor::Empty(DType::kF32, result.shape());
    std::copy_n(result.as<float>(), result.num_elements(), copy.as<float>());
    out.push_back(copy);
  }
  return out;
}

TEST(F32Backend, FloatBlocksEqualTheCpus) {
  FIREQ_NEEDS_HOPPER();
  const auto source = MakeSyntheticSource("tiny");
  ThreadPool pool(2);
  ModelConfig config = source->config();
  for (const bool extras : {false, true}) {
    std::vector<quant::Block<float>> blocks;
    for (int64_t layer = 0; layer < 2; ++layer) {
      blocks.push_back(quant::LoadBlock(*source, layer, pool));
      if (!extras) continue;
      const auto around = [](size_t count, float centre) {
        std::vector<float> out(count);
        for (size_t i = 0; i < count; ++i) out[i] = centre + 0.01f * static_cast<float>(i % 13);
        return out;
      };
      quant::Block<float>& block = blocks.back();
      block.q.bias = around(static_cast<size_t>(block.q.weight.rows), 0.1f);
      block.gate.bias = around(static_cast<size_t>(block.gate.weight.rows), -0.1f);
      block.up.bias = around(static_cast<size_t>(block.up.weight.rows), 0.2f);
      block.down.bias = around(static_cast<size_t>(block.down.weight.rows), 0.0f);
      block.q_norm = around(64, 0.9f);
      block.k_norm = around(64, 0.8f);
      block.crs_q = around(128, 1.2f);
      block.crs_k = around(128, 0.7f);
    }
    const auto cpu = MakeCpuBackend({.num_threads = 2});
    const auto gpu = MakeSm90FloatBackend();
    const auto want = RunBlocks(*cpu, config, blocks), got = RunBlocks(*gpu, config, blocks);
    for (size_t step = 0; step < want.size(); ++step) {
      double difference = 0.0, norm = 0.0;
      for (int64_t i = 0; i < want[step].num_elements(); ++i) {
        difference += std::pow(double{want[step].as<float>()[i]} - got[step].as<float>()[i], 2);
        norm += std::pow(double{want[step].as<float>()[i]}, 2);
      }
      EXPECT_LT(std::sqrt(difference / norm), 1e-5) << "step " << step << ", extras " << extras;
    }
  }
}

quant::Report QuantiseWith(const ModelSource& source, const quant::Recipe& recipe, Backend& backend,
                           Fitter* fitter, const std::filesystem::path& target) {
  ThreadPool pool(4);
  quant::QuantizeJob job;
  job.source = &source;
  job.backend = &backend;
  job.fitter = fitter;
  job.pool = &pool;
  job.target = target;
  job.recipe = recipe;
  job.calibration_ids = Ids(1500, 5);
  job.calibration_context = 300;
  return quant::Quantize(job);
}

TEST(Sm90Quantiser, ReportsTheHostsErrors) {
  FIREQ_NEEDS_HOPPER();
  const auto source = MakeSyntheticSource("tiny");
  const TemporaryDirectory dir;
  const auto cpu = MakeCpuBackend({.num_threads = 4});
  const auto gpu = MakeSm90FloatBackend();
  const auto fitter = MakeSm90Fitter(*gpu);
  for (const char* settings : {"follow=true", "follow=false", "rpn=true"}) {
    quant::Recipe recipe = quant::BuiltinRecipe("default");
    quant::ApplySetting(recipe, settings);
    if (!recipe.follow) quant::ApplySetting(recipe, "follow.head=false");
    const quant::Report want =
        QuantiseWith(*source, recipe, *cpu, nullptr, dir.path() / StrCat("cpu_", settings));
    const quant::Report got =
        QuantiseWith(*source, recipe, *gpu, fitter.get(), dir.path() / StrCat("gpu_", settings));
    ASSERT_EQ(got.linears.size(), want.linears.size());
    for (size_t i = 0; i < want.linears.size(); ++i) {
      EXPECT_EQ(got.linears[i].t, want.linears[i].t) << want.linears[i].name;
      const double ratio = got.linears[i].errors.output_exact / want.linears[i].errors.output_exact;
      EXPECT_NEAR(ratio, 1.0, 0.03) << want.linears[i].name << ", " << settings;
    }
  }
}

}  // namespace
}  // namespace fireq
