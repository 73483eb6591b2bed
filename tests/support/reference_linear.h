// Linear layers and token quantisation in double precision, as the served arithmetic defines them.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "fireq/ops/args.h"

namespace fireq::testing {

// A weight [n, k] of random codes, scales of either sign and zero points.
WeightI4 RandomWeightI4(int64_t n, int64_t k, float t, std::mt19937& rng);
// Normal values times `spread`, rounded to `dtype` (F32, F16, BF16 or E4M3).
Tensor RandomTensor(DType dtype, Shape shape, float spread, std::mt19937& rng);
// Bytes that are NaN as F32, BF16 and E4M3: what an op must overwrite.
Tensor Poisoned(DType dtype, Shape shape);

// Element i of a tensor, exactly.
double ValueAt(const Tensor& tensor, int64_t i);

// The operand that w's codes become, divided by t: [n, k]; `products` is kTable or kExact.
std::vector<double> OperandsOf(const WeightI4& weight, Products products);

// Sums x w^T / t * scale + bias over all parts, stacked: [T, N], nothing rounded. `magnitude` gets
// the same with absolute values: what the error of FP32 sums is measured by. May be null.
std::vector<double> ReferenceSums(const ActTensor& x, const std::vector<LinearPart>& parts,
                                  Products products, std::vector<double>* magnitude);

}  // namespace fireq::testing
