// The border between a step's logits and its tokens: packs what the rows want for the backend.
#pragma once

#include <cstdint>
#include <memory>
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

// Choices on their way to the host.
class ChosenTokens {
 public:
  virtual ~ChosenTokens() = default;
  virtual std::vector<TokenChoice> Wait() = 0;  // once; one a row
};

class TokenSampler {
 public:
  virtual ~TokenSampler() = default;
  // Chooses a token a row, in order with the backend's ops. logits [R, V] (F32, or the backend's
  // LogitType) and ids I32 [R] (the choices alone; may be undefined) in the backend's memory;
  // `rows` may go on return.
  virtual std::unique_ptr<ChosenTokens> Start(const Tensor& logits, std::span<const SampleRow> rows,
                                              const Tensor& ids) = 0;
  // Whether rows for which ChoosesTheLargest() holds may be left to lm_head instead.
  virtual bool LeavesTheLargest() const { return false; }
};

// Ids I32 [R] in the backend's memory as choices with nothing said of their probabilities.
std::unique_ptr<ChosenTokens> StartArrival(Backend& backend, const Tensor& ids);

class BackendTokenSampler final : public TokenSampler {
 public:
  explicit BackendTokenSampler(Backend& backend) : backend_(backend) {}
  std::unique_ptr<ChosenTokens> Start(const Tensor& logits, std::span<const SampleRow> rows,
                                      const Tensor& ids) override;
  bool LeavesTheLargest() const override { return true; }

  // What it takes from the backend at most.
  static int64_t SizeBytes(int64_t max_rows, int64_t max_context);

 private:
  const Tensor& Upload(std::vector<SampleRowParams> params);

  Backend& backend_;
  // Of the last step: greedy rows are the same in every step, and a copy in front of the choice
  // costs it microseconds.
  std::vector<SampleRowParams> params_;
  Tensor uploaded_;
};

}  // namespace fireq
