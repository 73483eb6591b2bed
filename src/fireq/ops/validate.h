// Every check on the args of ops, once for every backend; what passes needs no further check.
//
// Errors: kShapeMismatch for tensors that do not fit each other, kInvalidArgument for values,
// kUnsupported for what no backend does, CheckWeightI4's; each names the op and the tensor and
// gives the values. Contents of tensors are read only where they lie on the host (ids, page tables,
// scales).
#pragma once

#include "fireq/ops/args.h"

namespace fireq {

void Validate(const LinearSpec& spec);
void Validate(const EmbedArgs& args);
void Validate(const RmsNormArgs& args);
void Validate(const QuantizeArgs& args);
// Logits are F32, or `logits` where a backend's own are (Backend::LogitType).
void Validate(const LinearArgs& args, DType logits = DType::kF32);
void Validate(const RopeKvWriteArgs& args);
void Validate(const AttentionArgs& args);
void Validate(const SampleArgs& args, DType logits = DType::kF32);
void Validate(const RandomLinearSpec& spec);
void ValidateCopy(const Tensor& from, const Tensor& to);
void ValidateGatherRows(const Tensor& x, const Tensor& rows, const Tensor& out);

}  // namespace fireq
