// Speed of the tokenizer on real text.
//
//   bench_tokenizer DIRECTORY TEXTFILE [Google Benchmark options]
//
// DIRECTORY holds tokenizer.json. Before anything is timed, the text must come back from its ids.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <string>

#include "fireq/base/error.h"
#include "fireq/io/text_file.h"
#include "fireq/text/tokenizer.h"

namespace {

using fireq::text::Tokenizer;

void Load(benchmark::State& state, const std::string& directory) {
  for (auto _ : state) benchmark::DoNotOptimize(Tokenizer::Load(directory));
}

void Encode(benchmark::State& state, const Tokenizer& tokenizer, const std::string& text) {
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.Encode(text));
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(text.size()));
}

void Decode(benchmark::State& state, const Tokenizer& tokenizer, const std::string& text) {
  const std::vector<int32_t> ids = tokenizer.Encode(text, {.add_special = false});
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.Decode(ids));
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(text.size()));
}

int Run(int argc, char** argv) {
  const std::string directory = argv[1];
  const std::string text = fireq::ReadTextFile(argv[2]);
  const Tokenizer tokenizer = Tokenizer::Load(directory);
  FIREQ_CHECK(tokenizer.Decode(tokenizer.Encode(text, {.add_special = false})) == text, kInternal,
              argv[2], ": the text does not come back from its ids");
  const auto ms = benchmark::kMillisecond;
  benchmark::RegisterBenchmark("Load", Load, directory)->Unit(ms);
  benchmark::RegisterBenchmark("Encode", Encode, tokenizer, text)->Unit(ms);
  benchmark::RegisterBenchmark("Decode", Decode, tokenizer, text)->Unit(ms);
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: bench_tokenizer DIRECTORY TEXTFILE [options]\n");
    return 2;
  }
  try {
    return Run(argc, argv);
  } catch (const fireq::Error& error) {
    std::fprintf(stderr, "bench_tokenizer: %s\n", error.what());
    return fireq::ExitCode(error.code());
  }
}
