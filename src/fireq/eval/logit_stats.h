// Sums over one row of logits, vectorised.
#pragma once

#include <cstdint>

namespace fireq {

// Rows of logits held at once: 256 x 128k vocabulary x 4 bytes is 128 MiB.
inline constexpr int64_t kLogitRows = 256;

// log sum_i exp(logits[i]) over `count` F32 logits; NaN if any is NaN.
double LogSumExp(const float* logits, int64_t count);

// KL(p || q) = sum_i p_i (log p_i - log q_i) in nats, where p = softmax(p_logits) and
// q = softmax(q_logits), given their log-sum-exps.
double KlDivergence(const float* p_logits, double p_lse, const float* q_logits, double q_lse,
                    int64_t count);

// Index of the largest logit, the lowest among equals; -1 if all are NaN.
int64_t ArgMax(const float* logits, int64_t count);

}  // namespace fireq
