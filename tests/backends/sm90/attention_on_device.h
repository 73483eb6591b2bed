// An AttentionCase in device memory and what every attention kernel must show on it.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <functional>
#include <ostream>
#include <random>
#include <vector>

#include "fireq/backends/sm90/runtime/device_buffer.h"
#include "fireq/formats/bf16.h"
#include "tests/backends/sm90/needs_hopper.h"
#include "tests/support/reference_attention.h"

namespace fireq::testing {

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

// A row of a test's table.
struct NamedAttentionCase {
  const char* name;
  std::vector<int32_t> query_len;
  std::vector<int32_t> context_len;
  int heads;
  int kv_heads;
  int head_dim;
  KvGrid grid;

  AttentionCase Make() const {
    return MakeAttentionCase({query_len, context_len, heads, {grid, kv_heads, head_dim}},
                             std::random_device{}());
  }
};
// What a test of this row is called.
inline std::ostream& operator<<(std::ostream& out, const NamedAttentionCase& c) {
  return out << c.name;
}

// `run(e4m3_probs)` is the step's output from poisoned memory. With P rounded as served: close to
// the reference that does the same, and to the one that does not, and the same bits twice. With the
// kernel's finer P: closer to the latter.
inline void ExpectServedAttention(const char* name, const AttentionCase& c,
                                  const std::function<std::vector<float>(bool)>& run) {
  const std::vector<float> first = run(true);
  const std::vector<float> second = run(true);
  EXPECT_EQ(0, std::memcmp(first.data(), second.data(), first.size() * sizeof(float)));
  const std::vector<double> exact = ReferenceAttention(c, ProbRounding::kNone);
  const double served_error = RelativeError(first, ReferenceAttention(c, ProbRounding::kE4M3));
  const double exact_error = RelativeError(first, exact);
  const double fine_error = RelativeError(run(false), exact);
  std::printf("%-16s served %.2e  unrounded %.2e  finer P %.2e\n", name, served_error, exact_error,
              fine_error);
  EXPECT_LE(served_error, 3e-3);
  EXPECT_LE(exact_error, 3e-2);
  EXPECT_LE(fine_error, 2.5e-3);
}

}  // namespace fireq::testing
