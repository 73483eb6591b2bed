// What the engine has done so far.
#pragma once

#include <array>
#include <cstdint>

#include "fireq/engine/messages.h"

namespace fireq {

struct EngineMetrics {
  // Taken of the memory budget at the start: the cache, and everything else.
  int64_t cache_bytes = 0;
  int64_t working_bytes = 0;
  // Sums since the start.
  int64_t num_accepted = 0;
  std::array<int64_t, kNumFinishReasons> num_finished{};  // by FinishReason
  int64_t num_preempted = 0;
  int64_t num_steps = 0;
  int64_t prefill_tokens = 0;  // run in chunks, recomputed ones too
  int64_t decode_tokens = 0;   // run one a sequence and step
  int64_t cached_tokens = 0;   // not run: found in the prefix cache
  int64_t output_tokens = 0;
  int64_t step_us = 0;  // in steps that ran something
  int64_t run_us = 0;   // of those, in the model and the sampler
  // As of the last step.
  int64_t num_running = 0;
  int64_t num_waiting = 0;
  int64_t num_pages = 0;
  int64_t num_pages_in_use = 0;
  int64_t num_pages_idle = 0;  // kept by the prefix cache alone
};

}  // namespace fireq
