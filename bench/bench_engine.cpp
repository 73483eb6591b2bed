// Output tokens a second through the serving engine, wall time with prefill, as CSV on stdout.
//
//   bench_engine MODEL --shape 8x128x64 --shape 32x128x64 [--requests 64] [--memory-gib 4] ...
//
// A shape is sequences at once x prompt tokens x output tokens. Prompts are random ids, nothing is
// shared between them, and no stop id ends an output early. A shape runs once unmeasured (two
// requests), then once measured.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/engine/engine.h"

namespace fireq {
namespace {

struct Settings {
  std::string model;
  std::vector<std::string> shapes;
  int64_t requests = 0;  // 0: twice the sequences at once
  double memory_gib = 2.0;
  int64_t max_tokens = 2048;
  int threads = 0;
  bool batch_invariant = false;
  double baseline_tokens_per_second = 0.0;
};

struct Shape {
  int64_t batch = 0;
  int64_t input = 0;
  int64_t output = 0;
};

struct Result {
  double seconds = 0.0;
  EngineMetrics metrics;
  std::vector<int64_t> first_token_us;  // sorted
};

Shape ParseShape(const std::string& text) {
  long long batch = 0, input = 0, output = 0;
  int end = 0;
  const int fields = std::sscanf(text.c_str(), "%lldx%lldx%lld%n", &batch, &input, &output, &end);
  FIREQ_CHECK(
      fields == 3 && text[static_cast<size_t>(end)] == '\0' && batch > 0 && input > 0 && output > 0,
      kInvalidArgument, "shape \"", text, "\" is not SEQUENCESxINPUTxOUTPUT");
  return {batch, input, output};
}

EngineOptions MakeOptions(const Settings& settings, const Shape& shape, int64_t requests) {
  EngineOptions options;
  options.runner.max_context = shape.input + shape.output;
  options.runner.max_tokens = std::max(settings.max_tokens, shape.batch);
  options.runner.max_sequences = shape.batch;
  options.runner.memory_bytes = static_cast<int64_t>(settings.memory_gib * (int64_t{1} << 30));
  if (settings.batch_invariant) options.runner.reduction = Reduction::kBatchInvariant;
  options.prefix_cache = false;
  options.queue_capacity = requests;
  return options;
}

// All requests are there from the start; the engine keeps `shape.batch` of them running.
Result Measure(Backend& backend, const Model& model, const Settings& settings, const Shape& shape,
               int64_t requests) {
  Engine engine(backend, model, MakeOptions(settings, shape, requests));
  std::mt19937_64 rng(static_cast<uint64_t>(requests));
  Result result;
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < requests; ++i) {
    Request request{.max_new_tokens = shape.output};
    for (int64_t t = 0; t < shape.input; ++t)
      request.prompt.push_back(
          static_cast<int32_t>(rng() % static_cast<uint64_t>(model.config.vocab_size)));
    const auto accepted = engine.Submit(std::move(request), [&](const TokenEvent& event) {
      if (!event.finish) return;
      FIREQ_CHECK(event.finish->output_tokens == shape.output, kInternal, "request ", event.request,
                  " ended after ", event.finish->output_tokens, " tokens: ", event.finish->error);
      result.first_token_us.push_back(event.finish->first_token_us);
    });
    FIREQ_CHECK(accepted.has_value(), kInternal, "the engine's queue is full");
  }
  while (engine.Step()) {
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  result.metrics = engine.metrics();
  FIREQ_CHECK(result.metrics.output_tokens == requests * shape.output, kInternal,
              result.metrics.output_tokens, " output tokens of ", requests, " requests");
  std::sort(result.first_token_us.begin(), result.first_token_us.end());
  return result;
}

void PrintRow(const Settings& settings, const std::string& backend, const Shape& shape,
              int64_t requests, const Result& result) {
  const EngineMetrics& m = result.metrics;
  const double rate = static_cast<double>(m.output_tokens) / result.seconds;
  const auto quantile_ms = [&](double q) {
    const auto at = static_cast<size_t>(q * static_cast<double>(result.first_token_us.size() - 1));
    return static_cast<double>(result.first_token_us[at]) / 1000.0;
  };
  std::string baseline = ",";
  if (settings.baseline_tokens_per_second > 0)
    baseline = StrCat(settings.baseline_tokens_per_second, ",",
                      rate / settings.baseline_tokens_per_second);
  std::printf("%s,%lld,%lld,%lld,%.1f,%s,\"%s\",%lld,%.3f,%lld,%lld,%lld,%lld,%.4f,%.1f,%.1f\n",
              settings.model.c_str(), static_cast<long long>(shape.batch),
              static_cast<long long>(shape.input), static_cast<long long>(shape.output), rate,
              baseline.c_str(), backend.c_str(), static_cast<long long>(requests), result.seconds,
              static_cast<long long>(m.num_steps), static_cast<long long>(m.prefill_tokens),
              static_cast<long long>(m.decode_tokens), static_cast<long long>(m.num_preempted),
              1.0 - static_cast<double>(m.run_us) / static_cast<double>(m.step_us),
              quantile_ms(0.5), quantile_ms(0.99));
  std::fflush(stdout);
}

void RunAll(const Settings& settings) {
  const std::unique_ptr<Backend> backend = MakeCpuBackend({.num_threads = settings.threads});
  const Model model = LoadModel(*backend, settings.model);
  std::puts(
      "model,batch,input,output,tokens_per_second,baseline_tokens_per_second,ratio,backend,"
      "requests,seconds,steps,prefill_tokens,decode_tokens,preempted,scheduling_share,"
      "first_token_ms_p50,first_token_ms_p99");
  for (const std::string& text : settings.shapes) {
    const Shape shape = ParseShape(text);
    const int64_t requests = settings.requests > 0 ? settings.requests : 2 * shape.batch;
    Measure(*backend, model, settings, shape, 2);
    PrintRow(settings, backend->name(), shape, requests,
             Measure(*backend, model, settings, shape, requests));
  }
}

}  // namespace
}  // namespace fireq

int main(int argc, char** argv) {
  fireq::Settings settings;
  CLI::App app("Load generator of the serving engine");
  app.add_option("model", settings.model, "Directory, .gguf file or checkpoint")->required();
  app.add_option("--shape", settings.shapes, "SEQUENCESxINPUTxOUTPUT")->required();
  app.add_option("--requests", settings.requests, "Requests a shape (default: 2 x sequences)");
  app.add_option("--memory-gib", settings.memory_gib, "Budget besides the weights")
      ->capture_default_str();
  app.add_option("--max-tokens", settings.max_tokens, "Tokens of a step")->capture_default_str();
  app.add_option("--threads", settings.threads, "0: one a hardware thread");
  app.add_flag("--batch-invariant", settings.batch_invariant);
  app.add_option("--baseline", settings.baseline_tokens_per_second,
                 "Tokens a second to compare with");
  CLI11_PARSE(app, argc, argv);
  try {
    fireq::RunAll(settings);
  } catch (const fireq::Error& error) {
    std::fprintf(stderr, "bench_engine: %s\n", error.what());
    return fireq::ExitCode(error.code());
  }
  return 0;
}
