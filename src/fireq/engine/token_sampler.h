// The border between a step's logits and its tokens: packs what the rows want for the backend.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fireq/ops/backend.h"
#include "fireq/ops/sampler.h"

namespace fireq {

// How to choose from one row of logits.
struct SampleRow {
  const SamplingParams* params = nullptr;
  std::span<const int32_t> history;  // ids of prompt and output so far
  int64_t draw = 0;                  // tokens of output so far
};

class TokenSampler {
 public:
  virtual ~TokenSampler() = default;
  // logits F32 [R, V] in the backend's memory; one choice a row. Waits for it.
  virtual std::vector<TokenChoice> Sample(const Tensor& logits,
                                          std::span<const SampleRow> rows) = 0;
};

class BackendTokenSampler final : public TokenSampler {
 public:
  explicit BackendTokenSampler(Backend& backend) : backend_(backend) {}
  std::vector<TokenChoice> Sample(const Tensor& logits, std::span<const SampleRow> rows) override;

  // What it takes from the backend at most.
  static int64_t SizeBytes(int64_t max_rows, int64_t max_context);

 private:
  Backend& backend_;
};

}  // namespace fireq
