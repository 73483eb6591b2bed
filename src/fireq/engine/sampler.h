// From logits to a token: greedy or random with the usual filters.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace fireq {

struct SamplingParams {
  float temperature = 0.0f;  // 0: greedy, everything below is ignored
  int64_t top_k = 0;         // keep the k likeliest; 0: all
  float top_p = 1.0f;        // keep the smallest set of probability >= top_p, in (0, 1]
  float min_p = 0.0f;        // drop what is below min_p x the likeliest, in [0, 1)
  uint64_t seed = 0;         // same seed, same logits: same tokens, on every platform
};

// Filters act in the order temperature, top-k, top-p, min-p. Not thread-safe; one a sequence.
class Sampler {
 public:
  // Throws kInvalidArgument naming the parameter that is out of range.
  explicit Sampler(const SamplingParams& params);

  // Index of the chosen logit. Ties go to the lower index. Throws kInternal if every logit is NaN.
  int32_t Sample(std::span<const float> logits);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  SamplingParams params_;
  std::mt19937_64 rng_;
  std::vector<Candidate> candidates_;
};

}  // namespace fireq
