// What a quantisation's report says of held-out text is what an evaluation of the checkpoint says.
#include "fireq/api/held_out.h"

#include <gtest/gtest.h>

#include <random>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/io/json.h"
#include "fireq/io/text_file.h"
#include "fireq/quant/pipeline.h"
#include "tests/io/io_testing.h"
#include "tests/support/random_ids.h"
#include "tests/support/tiny_llama.h"

namespace fireq {
namespace {

TEST(HeldOut, IsMeasuredBeforeTheCheckpointAppearsAndIsTrueOfIt) {
  constexpr int64_t kContext = 64;
  const ModelConfig config = test::TinyConfig();
  const TemporaryDirectory model, out;
  test::WriteHuggingFace(model.path(), config, test::RandomWeights(config, 12));
  const auto source = ModelSource::Open(model.path());
  const auto backend = MakeCpuBackend({.num_threads = 2});
  ThreadPool pool(2);
  std::mt19937 rng(4);
  const std::vector<int32_t> held_out = test::RandomIds(rng, 2 * kContext, config.vocab_size);

  quant::QuantizeJob job;
  job.source = source.get();
  job.backend = backend.get();
  job.pool = &pool;
  job.target = out.path() / "quantised";
  job.recipe = quant::BuiltinRecipe("fireq");
  job.calibration_ids = test::RandomIds(rng, 2 * kContext, config.vocab_size);
  job.calibration_context = kContext;
  job.measure = [&](const std::filesystem::path& checkpoint) {
    EXPECT_FALSE(std::filesystem::exists(job.target));
    return ToJson(MeasureHeldOut(*backend, OpenModel(*backend, checkpoint),
                                 OpenModel(*backend, model.path()), held_out, kContext, 2),
                  kContext);
  };
  const nlohmann::json json = quant::ToJson(quant::Quantize(job)).at("held_out");

  const Model quantised = LoadModel(*backend, job.target);
  const Model reference = LoadModel(*backend, model.path());
  for (const auto& [name, products] :
       {std::pair{"table", Products::kTable}, std::pair{"exact", Products::kExact}}) {
    PerplexityOptions options;
    options.context = kContext;
    options.products = products;
    const PerplexityResult result = EvaluatePerplexity({backend.get(), &quantised}, held_out,
                                                       options, {backend.get(), &reference});
    EXPECT_EQ(json.at(name).at("perplexity"), result.perplexity);
    EXPECT_EQ(json.at(name).at("kl_mean"), result.distance->kl_mean);
    EXPECT_EQ(json.at(name).at("top1_agreement"), result.distance->top1_agreement);
    EXPECT_GT(result.distance->kl_mean, 0.0);
  }
  EXPECT_NE(json.at("table").at("kl_mean"), json.at("exact").at("kl_mean"));
  EXPECT_EQ(
      json.at("float").at("perplexity"),
      EvaluatePerplexity({backend.get(), &reference}, held_out, {.context = kContext}).perplexity);
  EXPECT_EQ(json.at("tokens"), 2 * kContext);

  const std::string report = ReadTextFile(job.target / "quantisation_report.json");
  EXPECT_EQ(ParseJson(report, "report").at("held_out"), json);
  EXPECT_NE(ReadTextFile(job.target / "quantisation_report.html").find("Perplexity and KL"),
            std::string::npos);
}

}  // namespace
}  // namespace fireq
