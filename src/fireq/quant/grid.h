// Scales, zero points and codes of one weight matrix: t per matrix, a search per row and group.
//
// Served arithmetic, "Weights" and "Grids and searches" (docs/QUANTISATION.md): a group's error is
// sum_k h_k (w_hat - w)^2 with h = diag(X^T X) + damping, the first minimum among the candidates
// wins. Sums run over k in order, one FP32 accumulator a candidate, so a result depends neither on
// the vector width nor on the number of threads.
#pragma once

#include <span>
#include <vector>

#include "fireq/base/thread_pool.h"
#include "fireq/quant/recipe.h"
#include "fireq/tensor/matrix.h"
#include "fireq/tensor/weight_i4.h"

namespace fireq::quant {

// The clip factors that a search tries: 1, 0.975, ... 0.6.
inline constexpr int kClipSteps = 17;
inline float ClipFactor(int step) { return 1.0f - 0.025f * static_cast<float>(step); }

struct GridSpec {
  WeightGrid grid = WeightGrid::kSigned;  // not kNone
  bool search = true;                     // false: only the unclipped candidates
  ErrorProducts products = ErrorProducts::kTable;
};

// One candidate for a group: w_hat = (q - zero) * scale (/ t), scale an E4M3 value.
struct GroupGrid {
  float scale = 1.0f;
  int zero = kSymmetricZero;
};

// What `w[0..count)` (already times t, finite) may be stored with, in the order of the search.
std::vector<GroupGrid> GroupCandidates(std::span<const float> w, const GridSpec& spec);

// Index of the first candidate with the least error; ties go to the first.
size_t BestCandidate(std::span<const float> w, std::span<const float> h,
                     std::span<const GroupGrid> candidates, ErrorProducts products);

// clamp(rne(w / scale) + zero, 0, 15)
uint8_t NearestCode(float w, GroupGrid grid);

// The power of two that leaves the least underflow of group scales: i = 0..14 until a group's
// largest weight times 2^i exceeds 448, least slack wins, ties go to the smallest. w is [N, K].
float ChooseTensorScale(const Matrix<float>& w, ThreadPool& pool);

// An empty WeightI4 for [n, k] with t: codes zero, scales and zero points to be filled.
WeightI4 MakeWeightI4(int64_t n, int64_t k, float t);

// Fills scale and zero of `out` (made for w) by the search. `h` is [K], positive.
void SearchScales(const Matrix<float>& w, std::span<const float> h, const GridSpec& spec,
                  ThreadPool& pool, WeightI4& out);

// Fills codes of `out`, scales and zero points being there: each weight to its nearest code.
void RoundToNearest(const Matrix<float>& w, ThreadPool& pool, WeightI4& out);

// Row `row` of w_hat [K], with the products asked for (kTable or kExact).
void DequantizeRow(const WeightI4& weight, int64_t row, Products products, float* out);

}  // namespace fireq::quant
