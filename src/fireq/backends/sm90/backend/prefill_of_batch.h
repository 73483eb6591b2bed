// Prefill attention's plan of a part of a batch.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_prefill/plan.h"
#include "fireq/ops/args.h"

namespace fireq::sm90 {

// Of the sequences from `first_sequence` on, of which items and tiles tell the batch's own numbers.
// Throws as MakeAttnPrefillPlan.
AttnPrefillPlan PlanPrefill(const BatchView& batch, int64_t first_sequence, int64_t num_heads,
                            int64_t kv_heads, int64_t head_dim, int64_t num_sms,
                            const PrefillUnpackPolicy& policy = {});

}  // namespace fireq::sm90
