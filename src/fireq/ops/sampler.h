// From logits to a token: greedy or random with the usual filters, the same on every platform.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fireq/ops/args.h"

namespace fireq {

inline constexpr int64_t kMaxLogprobs = 64;

struct SamplingParams {
  float temperature = 0.0f;  // 0: greedy; top_k, top_p, min_p and seed are then ignored
  int64_t top_k = 0;         // keep the k likeliest; 0: all
  float top_p = 1.0f;        // keep the smallest set of probability >= top_p, in (0, 1]
  float min_p = 0.0f;        // drop what is below min_p x the likeliest, in [0, 1)
  uint64_t seed = 0;         // same seed, same logits: same tokens
  // Divides the positive and multiplies the negative logits of every id that the prompt or the
  // output holds; > 0, 1: off.
  float repetition_penalty = 1.0f;
  // How many alternatives are listed with their log-probability, beside the chosen one's own;
  // -1: none is computed; at most kMaxLogprobs.
  int64_t num_logprobs = -1;
};

// `params` and the state of a sequence as a backend reads them; `history` is to be set. A greedy
// row is the same at every draw.
SampleRowParams MakeSampleRow(const SamplingParams& params, int64_t draw);
SamplingParams ParamsOf(const SampleRowParams& row);

// Greedy, of the logits as they are, with nothing said of their probabilities.
inline bool ChoosesTheLargest(const SamplingParams& params) {
  return params.temperature == 0.0f && params.repetition_penalty == 1.0f && params.num_logprobs < 0;
}

// Throws kInvalidArgument naming the parameter that is out of range.
void Validate(const SamplingParams& params);

// Log-probabilities are of the model's own softmax: before penalty, temperature and filters.
struct TokenLogprob {
  int32_t id = -1;
  float logprob = 0.0f;
};

struct TokenChoice {
  int32_t id = -1;                // -1: every logit was NaN
  float logprob = 0.0f;           // of `id`, if asked for
  std::vector<TokenLogprob> top;  // likeliest first
};

// Scratch for choosing; the choices themselves have no state. Not thread-safe.
class Sampler {
 public:
  // Index of the chosen logit, ties to the lower index. Acts in the order penalty, temperature,
  // top-k, top-p, min-p. `history`: ids of prompt and output so far. `draw` counts the choices of
  // the sequence: (seed, draw) fixes the random number, so a choice may be made again. `params`
  // are valid.
  TokenChoice Choose(const SamplingParams& params, std::span<const float> logits,
                     std::span<const int32_t> history, int64_t draw);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  static bool Likelier(const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  }

  std::span<const float> Penalise(float penalty, std::span<const float> logits,
                                  std::span<const int32_t> history);
  void Collect(std::span<const float> logits);
  // The `count` likeliest candidates in order (all for 0); the rest is dropped.
  void KeepTop(int64_t count);
  int32_t Draw(const SamplingParams& params, int64_t draw);
  void AddLogprobs(const SamplingParams& params, std::span<const float> logits,
                   TokenChoice& choice);

  std::vector<Candidate> candidates_;
  std::vector<double> cumulative_;
  std::vector<float> penalised_;
  std::vector<bool> seen_;
};

}  // namespace fireq
