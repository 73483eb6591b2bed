// consumer MODEL OUT DEVICE: quantises MODEL into OUT and prints ids that OUT generates.
#include <fireq/api/fireq.h>
#include <cstdio>
#include <exception>

int main(int, char** argv) try {
  fireq::RuntimeOptions runtime;
  runtime.device = argv[3];
  fireq::QuantizeRequest job;
  job.model = argv[1];
  job.output_dir = argv[2];
  job.recipe = "rtn";
  job.runtime = runtime;
  fireq::Quantize(job);
  fireq::GenerateRequest request;
  request.prompt = "Hello";
  request.max_new_tokens = 8;
  request.ignore_eos = true;
  fireq::LanguageModel model = fireq::LanguageModel::Load(job.output_dir, {.runtime = runtime});
  for (const int id : model.Generate(request).ids) std::printf("%d ", id);
} catch (const std::exception& error) {
  std::fputs(error.what(), stderr);
  return 1;
}
