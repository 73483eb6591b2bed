// Linear layers on the CPU: weights stay packed; a tile of them becomes operands when it is needed.
#pragma once

#include <memory>
#include <vector>

#include "fireq/backends/cpu/context.h"
#include "fireq/ops/args.h"

namespace fireq::cpu {

// A run of output rows with one t and one kind of weight.
struct LinearRows {
  Tensor data;                  // U8 codes [N, stride] or BF16 / F32 [N, padded K]
  std::vector<uint16_t> index;  // INT4: ProductRow a group
  Tensor bias;                  // F32 [N] or undefined
  WeightRows rows;              // points into the above
  float inv_t = 1.0f;
  int64_t begin = 0;  // first output row in the fused matrix
  int64_t n = 0;
};

class CpuLinear final : public PreparedLinear {
 public:
  // Shares the spec's tensors where their rows are whole blocks of 64, else pads copies.
  explicit CpuLinear(LinearSpec spec);

  int64_t n() const override { return n_; }
  int64_t k() const override { return k_; }
  bool quantized() const override { return quantized_; }

  int64_t padded_k() const { return AlignUp(k_, kBlockK); }
  bool gate_up() const { return gate_up_; }
  bool has_f32() const { return has_f32_; }
  const std::vector<LinearRows>& parts() const { return parts_; }

 private:
  int64_t n_ = 0;
  int64_t k_ = 0;
  bool quantized_ = false;
  bool gate_up_ = false;
  bool has_f32_ = false;
  std::vector<LinearRows> parts_;
};

// y = epilogue(x w^T); args are valid.
void RunLinear(Context& context, const LinearArgs& args);

}  // namespace fireq::cpu
