// An AttentionCase in device memory, and the skip of a test that needs a GPU.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <vector>

#include "fireq/backends/sm90/runtime/device_buffer.h"
#include "fireq/formats/bf16.h"
#include "tests/support/reference_attention.h"

namespace fireq::testing {

// Without a Hopper GPU: skips the test, or fails it where FIREQ_REQUIRE_GPU is set.
#define FIREQ_NEEDS_HOPPER()                                                      \
  do {                                                                            \
    if (!::fireq::sm90::HasHopper()) {                                            \
      if (std::getenv("FIREQ_REQUIRE_GPU") != nullptr) FAIL() << "no Hopper GPU"; \
      GTEST_SKIP() << "no Hopper GPU";                                            \
    }                                                                             \
  } while (false)

struct AttentionOnDevice {
  explicit AttentionOnDevice(const AttentionCase& c)
      : q(c.q),
        q_scale(c.q_scale),
        pages(c.pages),
        query_start(c.query_start),
        context_len(c.context_len),
        page_table(c.page_table),
        out(static_cast<int64_t>(c.q.size())) {
    out.FillBytes(0xFF);  // NaN: an element that is not written shows
  }

  std::vector<float> Output() const {
    std::vector<float> values;
    for (const bf16_t bits : out.ToHost()) values.push_back(Bf16ToFloat(bits));
    return values;
  }

  sm90::DeviceBuffer<uint8_t> q;
  sm90::DeviceBuffer<float> q_scale;
  sm90::DeviceBuffer<uint8_t> pages;
  sm90::DeviceBuffer<int32_t> query_start;
  sm90::DeviceBuffer<int32_t> context_len;
  sm90::DeviceBuffer<int32_t> page_table;
  sm90::DeviceBuffer<bf16_t> out;
};

}  // namespace fireq::testing
