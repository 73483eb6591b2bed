// The whole quantiser on small random models: what it writes, what it refuses, what it must not
// change.
#include "fireq/quant/pipeline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <random>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/checkpoint/quantised_checkpoint.h"
#include "fireq/io/json.h"
#include "fireq/model/batch.h"
#include "fireq/model/kv_cache.h"
#include "fireq/model/model.h"
#include "fireq/quant/block_io.h"
#include "fireq/quant/calibrate.h"
#include "fireq/quant/fold_cas.h"
#include "fireq/quant/host_fit.h"
#include "fireq/quant/model_rotation.h"
#include "tests/io/io_testing.h"
#include "tests/support/tiny_llama.h"

namespace fireq::quant {
namespace {

using test::TinyConfig;
using testing::HasSubstr;

std::vector<int32_t> RandomIds(const ModelConfig& config, size_t count, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids)
    id = static_cast<int32_t>(rng() % static_cast<uint64_t>(config.vocab_size));
  return ids;
}

// Logits [T, V] of all positions of one sequence.
std::vector<float> AllLogits(Backend& backend, const Model& model,
                             const std::vector<int32_t>& ids) {
  const int64_t count = std::ssize(ids);
  const ForwardContext context = MakeContext(backend, model, count, Products::kExact);
  ForwardBuffers buffers(context, count);
  KvCache cache(backend, model.config, model.quant.arithmetic.kv, model.config.num_layers, 4);
  const std::vector<int32_t> pages = {0, 1, 2, 3};
  const SequenceStep step{ids, 0, pages};
  const Tensor hidden = ForwardHidden(context, buffers, model.weights,
                                      MakeBatch(backend, {&step, 1}), cache.layers());
  const Tensor logits = backend.Download(ForwardLogits(context, model.weights, hidden));
  return {logits.as<float>(), logits.as<float>() + logits.num_elements()};
}

class TinyPipeline : public testing::Test {
 protected:
  explicit TinyPipeline(ModelConfig config = TinyConfig()) : config_(std::move(config)) {
    weights_ = test::RandomWeights(config_, 11);
    test::WriteHuggingFace(model_.path(), config_, weights_);
    source_ = ModelSource::Open(model_.path());
  }

  Report Run(const Recipe& recipe, const std::string& name, int threads = 2, size_t num_ids = 256) {
    const auto backend = MakeCpuBackend({.num_threads = threads});
    ThreadPool pool(threads);
    QuantizeJob job;
    job.source = source_.get();
    job.backend = backend.get();
    job.pool = &pool;
    job.target = out_.path() / name;
    job.recipe = recipe;
    job.calibration_ids = RandomIds(config_, num_ids, 1);
    job.calibration_context = 64;
    job.progress = [&](std::string_view step, double fraction) {
      EXPECT_GE(fraction, fraction_);
      fraction_ = fraction;
      last_step_ = step;
    };
    fraction_ = 0.0;
    return Quantize(job);
  }

  // Mean KL(float || quantised) over random ids.
  double Divergence(const std::string& name) const {
    const auto backend = MakeCpuBackend({.num_threads = 2});
    const std::vector<int32_t> ids = RandomIds(config_, 130, 2);
    const auto expected = test::ReferenceLogits(config_, weights_, ids);
    const Model model = LoadModel(*backend, out_.path() / name);
    const std::vector<float> logits = AllLogits(*backend, model, ids);
    double kl = 0.0;
    const size_t vocab = static_cast<size_t>(config_.vocab_size);
    for (size_t t = 0; t < ids.size(); ++t) {
      double p_sum = 0.0, q_sum = 0.0;
      for (size_t v = 0; v < vocab; ++v) {
        p_sum += std::exp(expected[t][v]);
        q_sum += std::exp(double{logits[t * vocab + v]});
      }
      for (size_t v = 0; v < vocab; ++v)
        kl += std::exp(expected[t][v]) / p_sum *
              (expected[t][v] - std::log(p_sum) - logits[t * vocab + v] + std::log(q_sum));
    }
    return kl / static_cast<double>(ids.size());
  }

  ModelConfig config_;
  test::TinyWeights weights_;
  const TemporaryDirectory model_, out_;
  std::shared_ptr<const ModelSource> source_;
  double fraction_ = 0.0;
  std::string last_step_;
};

TEST_F(TinyPipeline, EveryBuiltinWritesAModelThatLoadsAndStaysClose) {
  for (const std::string& name : RecipeNames()) {
    if (name == "qoq") continue;  // its linears are not stored as codes
    const Report report = Run(BuiltinRecipe(name), name);
    EXPECT_EQ(fraction_, 1.0);
    EXPECT_EQ(report.linears.size(), 14u);
    const nlohmann::json json = ToJson(report);
    EXPECT_EQ(json.at("recipe").at("base"), name);
    EXPECT_GT(json.at("mean").at("weight_error_exact").get<double>(), 0.01);
    EXPECT_LT(json.at("mean").at("weight_error_exact").get<double>(), 0.25);
    const double kl = Divergence(name);
    EXPECT_GT(kl, 0.0) << name;
    EXPECT_LT(kl, 0.2) << name;
    const QuantisedCheckpoint checkpoint(out_.path() / name);
    EXPECT_EQ(nlohmann::json::parse(checkpoint.quant().recipe_json).at("base"), name);
  }
}

TEST_F(TinyPipeline, TheRivalQoqStaysCloseAndStoresItsValues) {
  const Report report = Run(BuiltinRecipe("qoq"), "qoq");
  EXPECT_EQ(report.linears.size(), 0u);
  EXPECT_EQ(report.excluded.size(), 14u);
  const double kl = Divergence("qoq");
  EXPECT_GT(kl, 1e-4);
  EXPECT_LT(kl, 0.2);
}

TEST_F(TinyPipeline, UnquantisedCheckpointIsTheFloatModel) {
  Recipe recipe = BuiltinRecipe("fireq");
  for (const char* setting :
       {"weights.grid=none", "kv=float", "query=float", "probs=float", "borders=f32",
        "rotate.residual=true", "rotate.v=true", "hadamard.qk=true"})
    ApplySetting(recipe, setting);
  const Report report = Run(recipe, "plain");
  EXPECT_TRUE(report.linears.empty());
  EXPECT_EQ(report.excluded.size(), 14u);
  EXPECT_LT(Divergence("plain"), 1e-4);  // BF16 weights are all that is left
}

TEST_F(TinyPipeline, BytesDoNotDependOnThreads) {
  Recipe recipe = BuiltinRecipe("default");
  ApplySetting(recipe, "follow=true");
  std::vector<std::string> bytes;
  for (const int threads : {1, 3}) {
    const std::string name = StrCat("threads", threads);
    Run(recipe, name, threads);
    std::ifstream file(out_.path() / name / "model.safetensors", std::ios::binary);
    bytes.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    ASSERT_GT(bytes.back().size(), 10000u);
  }
  EXPECT_TRUE(bytes[0] == bytes[1]);
}

// With nothing rounded the followed model is the float one, so there is nothing to correct, and a
// group that stays BF16 still takes part.
// What a GPU began is not gone on with on the CPU: their codes differ.
TEST_F(TinyPipeline, SavedWorkOfAnotherDeviceIsRefused) {
  const auto backend = MakeCpuBackend({.num_threads = 2});
  ThreadPool pool(2);
  HostFitter other_device(*backend, pool);
  QuantizeJob job;
  job.source = source_.get();
  job.backend = backend.get();
  job.pool = &pool;
  job.target = out_.path() / "out";
  job.recipe = BuiltinRecipe("rtn");
  job.save.every_seconds = 0.0;
  job.progress = [](std::string_view step, double) {
    if (step.starts_with("block 2")) throw std::runtime_error("killed");
  };
  EXPECT_THROW(Quantize(job), std::runtime_error);
  job.progress = nullptr;
  job.fitter = &other_device;
  try {
    Quantize(job);
    FAIL() << "went on with the work of another device";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("device was \"cpu\" and is \"gpu\""));
  }
  job.fitter = nullptr;
  Quantize(job);  // goes on
}

TEST_F(TinyPipeline, FollowingCorrectsOnlyWhatRoundingDid) {
  const auto backend = MakeCpuBackend({.num_threads = 2});
  ThreadPool pool(2);
  const ModelRotation rotation(config_, Recipe{});
  const OuterTensors outer = rotation.LoadOuter(*source_, pool);
  Arithmetic arithmetic;
  arithmetic.bf16_borders = false;
  arithmetic.activations = Activations::kFloat;
  arithmetic.e4m3_query = arithmetic.e4m3_probs = false;
  arithmetic.kv = KvGrid::kFloat;
  const CalibrationSpec spec{.context = 50, .full_moments = true, .follow = StreamSpec{arithmetic}};
  HostFitter fitter(*backend, pool);
  Calibration calibration(*backend, fitter, config_, RandomIds(config_, 100, 3), spec,
                          outer.embedding, pool);
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    Block<float> block = LoadBlock(*source_, layer, pool);
    calibration.StartBlock(block, layer, false);
    calibration.StartFollowing(block, layer, {});
    const auto part = [](FloatLinear<float>& linear) {
      LinearPart out{.name = linear.name};
      out.weight = F32Tensor(linear.weight.data, {linear.weight.rows, linear.weight.cols});
      return out;
    };
    const auto follow = [&](BlockInput which, const FloatLinear<float>& first,
                            std::vector<LinearPart> parts) {
      const std::unique_ptr<InputFit> fit = calibration.Study(which);
      fit->Correct(1.0, first.weight, first.name);
      const Matrix<float> same = fit->Corrected(first.weight);
      for (size_t i = 0; i < same.data.size(); ++i)
        ASSERT_NEAR(same.data[i], first.weight.data[i], 1e-5f);
      calibration.Follow(which, {std::move(parts), which == BlockInput::kMlp});
    };
    follow(BlockInput::kAttention, block.q, {part(block.q), part(block.k), part(block.v)});
    follow(BlockInput::kAttentionOut, block.o, {part(block.o)});
    follow(BlockInput::kMlp, block.gate, {part(block.gate), part(block.up)});
    follow(BlockInput::kMlpHidden, block.down, {part(block.down)});
    calibration.FinishBlock();
  }
  Recipe recipe = BuiltinRecipe("default");
  ApplySetting(recipe, "follow=true");
  ApplySetting(recipe, "exclude=layers.0.mlp");
  EXPECT_NO_THROW(Run(recipe, "partly_excluded"));
  EXPECT_LT(Divergence("partly_excluded"), 0.2);
}

// On ids that calibration has not seen.
TEST_F(TinyPipeline, CorrectingTheHeadLowersTheDivergence) {
  Recipe recipe = BuiltinRecipe("default");
  Run(recipe, "corrected", 2, 4096);
  ApplySetting(recipe, "follow.head=false");
  Run(recipe, "as_it_is", 2, 4096);
  EXPECT_LT(Divergence("corrected"), Divergence("as_it_is"));
}

TEST_F(TinyPipeline, TooLittleTextForTheDampingIsNoBugOfOurs) {
  Recipe recipe = BuiltinRecipe("default");
  ApplySetting(recipe, "weights.damping=0");
  ApplySetting(recipe, "follow.damping=0");
  try {
    Run(recipe, "undamped", 2, 64);
    ADD_FAILURE() << "64 tokens span 96 inputs";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument) << error.what();
    EXPECT_THAT(error.what(), testing::HasSubstr("it takes more calibration text or more damping"));
  }
}

TEST_F(TinyPipeline, ExcludingOneLinearExcludesItsFusedGroup) {
  Recipe recipe = BuiltinRecipe("rtn");
  ApplySetting(recipe, "exclude=layers\\.1\\..*(k_proj|up_proj)");
  const Report report = Run(recipe, "excluded");
  EXPECT_THAT(
      report.excluded,
      testing::ElementsAre("model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.k_proj",
                           "model.layers.1.self_attn.v_proj", "model.layers.1.mlp.gate_proj",
                           "model.layers.1.mlp.up_proj"));
  EXPECT_EQ(report.linears.size(), 9u);
  EXPECT_LT(Divergence("excluded"), 0.2);
}

TEST_F(TinyPipeline, PlainRoundingNeedsNoCalibrationAndOthersSaySo) {
  EXPECT_NO_THROW(Run(BuiltinRecipe("rtn"), "rtn0", 1, 0));
  try {
    Run(BuiltinRecipe("fireq"), "fireq0", 1, 63);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(), HasSubstr("63"));
  }
  EXPECT_FALSE(std::filesystem::exists(out_.path() / "fireq0"));
}

TEST_F(TinyPipeline, NonFiniteWeightIsRefusedByNameAndLeavesNothing) {
  weights_.at("model.layers.1.mlp.down_proj.weight")[5] = std::numeric_limits<float>::quiet_NaN();
  test::WriteHuggingFace(model_.path(), config_, weights_);
  source_ = ModelSource::Open(model_.path());
  try {
    Run(BuiltinRecipe("rtn"), "nan");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
    EXPECT_THAT(error.what(), HasSubstr("model.layers.1.mlp.down_proj.weight"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(out_.path()));
}

TEST(Pipeline, HadamardOfAnOddHeadDimIsRefusedWithAWayOut) {
  ModelConfig config = TinyConfig();
  config.head_dim = 24;
  const TemporaryDirectory model, out;
  test::WriteHuggingFace(model.path(), config, test::RandomWeights(config, 1));
  const auto source = ModelSource::Open(model.path());
  QuantizeJob job;
  job.source = source.get();
  job.target = out.path() / "out";
  job.recipe = BuiltinRecipe("default");
  try {
    Quantize(job);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_THAT(error.what(), testing::AllOf(HasSubstr("24"), HasSubstr("hadamard.qk=false")));
  }
}

struct Folded {
  std::vector<Block<float>> blocks;  // which the model's weights are views of
  Model model;
};

// The float model of `source` with every fold and rotation in it, in F32; statistics are of `ids`.
Folded FoldEverything(Backend& backend, const ModelSource& source, const std::vector<int32_t>& ids,
                      int64_t context) {
  Recipe recipe = BuiltinRecipe("fireq");
  for (const char* setting : {"rotate.residual=true", "rotate.v=true", "crs.top_k=2"})
    ApplySetting(recipe, setting);
  ThreadPool pool(2);
  const ModelConfig& config = source.config();
  const ModelRotation rotation(config, recipe);
  const OuterTensors outer = rotation.LoadOuter(source, pool);
  HostFitter fitter(backend, pool);
  Calibration calibration(backend, fitter, config, ids, {.context = context}, outer.embedding,
                          pool);
  Folded out;
  out.blocks.reserve(static_cast<size_t>(config.num_layers));
  Model& model = out.model;
  model.config = rotation.StoredConfig();
  model.quant.qk_hadamard = true;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    Block<float>& block = out.blocks.emplace_back(LoadBlock(source, layer, pool));
    FoldCas(block, config, recipe);
    rotation.Fold(block, pool);
    const KeyRanges keys = calibration.StartBlock(block, layer, true);
    for (const BlockInput input : {BlockInput::kAttention, BlockInput::kAttentionOut,
                                   BlockInput::kMlp, BlockInput::kMlpHidden})
      calibration.Study(input);
    calibration.FinishBlock();
    FoldRope(block, config, recipe, keys);
    model.weights.blocks.push_back(PrepareBlock(backend, block, config.head_dim));
  }
  const auto matrix = [](const Matrix<float>& m) { return F32Tensor(m.data, {m.rows, m.cols}); };
  model.weights.embedding = matrix(outer.embedding);
  model.weights.final_norm = F32Tensor(outer.final_norm, {config.hidden});
  LinearSpec head;
  head.parts.push_back({.name = "lm_head", .weight = matrix(rotation.LoadHead(source, pool))});
  model.weights.lm_head = backend.Prepare(std::move(head));
  return out;
}

class FoldedModel : public TinyPipeline, public testing::WithParamInterface<int> {
 protected:
  static ModelConfig Config() {
    ModelConfig config = TinyConfig();
    if (GetParam() == 1) config.tied_embeddings = true;
    if (GetParam() == 2) {
      config.family = "qwen3";
      config.architecture = "Qwen3ForCausalLM";
      config.qk_norm = true;
    }
    return config;
  }
  FoldedModel() : TinyPipeline(Config()) {}
};

TEST_P(FoldedModel, LogitsAreUnchanged) {
  const auto backend = MakeCpuBackend({.num_threads = 2});
  const std::vector<int32_t> ids = RandomIds(config_, 100, 3);
  const Folded folded = FoldEverything(*backend, *source_, ids, 50);
  const auto expected = test::ReferenceLogits(config_, weights_, ids);
  const std::vector<float> logits = AllLogits(*backend, folded.model, ids);
  const size_t vocab = static_cast<size_t>(config_.vocab_size);
  for (size_t i = 0; i < logits.size(); ++i)
    ASSERT_NEAR(logits[i], expected[i / vocab][i % vocab], 1e-3) << i;
}

INSTANTIATE_TEST_SUITE_P(Families, FoldedModel, testing::Values(0, 1, 2));

// Skipped, visibly, without the data (FIREQ_TEST_DATA) or the model (FIREQ_TEST_MODEL).
TEST(FoldedSmolLm2, LogitsAreUnchanged) {
  const char *data = std::getenv("FIREQ_TEST_DATA"), *path = std::getenv("FIREQ_TEST_MODEL");
  if (data == nullptr || *data == 0) GTEST_SKIP() << "FIREQ_TEST_DATA is not set";
  if (path == nullptr || *path == 0) GTEST_SKIP() << "FIREQ_TEST_MODEL is not set";
  const auto golden =
      ReadJsonFile(std::filesystem::path(data) / "golden/smollm2/logits_wiki64.json");
  const std::vector<int32_t> ids = golden["ids"];
  const auto backend = MakeCpuBackend({.num_threads = 2});
  const std::vector<float> expected = AllLogits(*backend, LoadModel(*backend, path), ids);
  const auto source = ModelSource::Open(path);
  const Folded folded = FoldEverything(*backend, *source, ids, 32);
  const std::vector<float> logits = AllLogits(*backend, folded.model, ids);
  ASSERT_EQ(logits.size(), expected.size());
  for (size_t i = 0; i < logits.size(); ++i) ASSERT_NEAR(logits[i], expected[i], 1e-3) << i;
}

}  // namespace
}  // namespace fireq::quant
