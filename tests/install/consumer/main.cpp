// consumer MODEL OUT: quantises MODEL into OUT and prints ids that OUT generates.
#include <fireq/api/fireq.h>
#include <cstdio>

int main(int, char** argv) {
  fireq::QuantizeRequest job;
  job.model = argv[1];
  job.output_dir = argv[2];
  job.recipe = "rtn";
  fireq::Quantize(job);
  fireq::GenerateRequest request;
  request.prompt = "Hello";
  request.max_new_tokens = 8;
  request.ignore_eos = true;
  for (const int id : fireq::LanguageModel::Load(job.output_dir).Generate(request).ids)
    std::printf("%d ", id);
}
