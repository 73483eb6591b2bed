// A random decode or prefill step in device memory, made there: caches of gigabytes.
#pragma once

#include <cstdint>
#include <vector>

#include "fireq/backends/sm90/runtime/device_buffer.h"
#include "fireq/formats/bf16.h"
#include "fireq/formats/kv_page.h"

namespace fireq::bench {

// Every sequence has the same lengths, but for the last `short_sequences`; its pages lie in a
// random order. Q, K and V are normal, as what the peer is given.
struct StepShape {
  int sequences = 0;
  int query_len = 0;
  int context = 0;
  int heads = 0;
  KvPageLayout layout;
  float deviation = 1.0f;  // of the scores, in nats
  int short_sequences = 0;
};

inline constexpr int kShortContext = 40;  // tokens, of one page

struct RandomStep {
  RandomStep(const StepShape& shape, uint32_t seed);

  StepShape shape;
  int max_pages = 0;
  sm90::DeviceBuffer<uint8_t> q;
  sm90::DeviceBuffer<float> scale_q;
  sm90::DeviceBuffer<uint8_t> pages;
  sm90::DeviceBuffer<int32_t> query_start;
  sm90::DeviceBuffer<int32_t> context_len;
  sm90::DeviceBuffer<int32_t> page_table;
  sm90::DeviceBuffer<bf16_t> out;
};

// What rope_kv_write reads besides a RandomStep of the same shape: the QKV GEMM's output and the
// rotation of every position.
struct RandomQkv {
  RandomQkv(const StepShape& shape, uint32_t seed);

  sm90::DeviceBuffer<bf16_t> qkv;
  sm90::DeviceBuffer<float> rope_cos;
  sm90::DeviceBuffer<float> rope_sin;
};

}  // namespace fireq::bench
