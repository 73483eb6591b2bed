// The inner loop of the search of scales, compiled for every vector width.
#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "fireq/quant/recipe.h"

namespace fireq::quant {

inline constexpr size_t kMaxCandidates = 48;  // 2 x 17, padded to whole vectors

// Candidates side by side, so that one vector instruction serves several of them.
struct CandidateErrors {
  alignas(64) std::array<float, kMaxCandidates> scale;
  alignas(64) std::array<float, kMaxCandidates> zero;
  alignas(64) std::array<float, kMaxCandidates> error = {};
  size_t padded = 0;  // how many there are, a multiple of 16
};

// Adds sum_k h_k (w_hat_k - w_k)^2 to the error of each, in the order of k.
void AddErrors(std::span<const float> w, std::span<const float> h, ErrorProducts products,
               CandidateErrors& candidates);

}  // namespace fireq::quant
