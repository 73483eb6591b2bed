// What generate and chat have in common: a model, how its tokens are chosen, where it runs.
#pragma once

#include "command.h"

namespace fireq::app {

struct GenerationOptions {
  CommonOptions common;
  std::string model;
  GenerateRequest request;
  int tensor_parallel = 1;

  LanguageModel Load() const {
    LoadOptions load;
    load.runtime = common.Runtime();
    load.tensor_parallel = tensor_parallel;
    return LanguageModel::Load(model, load);
  }
};

inline void AddSampling(CLI::App& command, GenerateRequest& request) {
  command.add_option("--temperature", request.temperature, "0: greedy")->capture_default_str();
  command.add_option("--top-k", request.top_k, "Keep the k likeliest (0: all)")
      ->capture_default_str();
  command.add_option("--top-p", request.top_p, "Keep the likeliest up to this probability")
      ->capture_default_str();
  command.add_option("--min-p", request.min_p, "Drop what is below this share of the likeliest")
      ->capture_default_str();
  command
      .add_option("--repetition-penalty", request.repetition_penalty,
                  "Divides positive, multiplies negative logits of tokens that were there before")
      ->capture_default_str();
  command.add_option("--seed", request.seed, "Seed of the random choice")
      ->check(NotNegative())
      ->type_name("N")
      ->capture_default_str();
  command.add_option("--stop", request.stop, "End before this text; may be repeated")
      ->expected(1)
      ->take_all();
}

}  // namespace fireq::app
