// The border between a step's logits and its tokens: on the host for now, on a device when a
// backend brings its own.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fireq/engine/sampler.h"
#include "fireq/ops/backend.h"

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
  // logits F32 [R, V] in the backend's memory; one choice a row, made as Sampler::Choose does.
  virtual std::vector<TokenChoice> Sample(const Tensor& logits,
                                          std::span<const SampleRow> rows) = 0;
};

// Downloads the logits.
class HostTokenSampler final : public TokenSampler {
 public:
  explicit HostTokenSampler(Backend& backend) : backend_(backend) {}
  std::vector<TokenChoice> Sample(const Tensor& logits, std::span<const SampleRow> rows) override;

 private:
  Backend& backend_;
  Sampler sampler_;
};

}  // namespace fireq
