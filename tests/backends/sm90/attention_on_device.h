// An AttentionCase in device memory, what every attention kernel must show on it, and the skip of a
// test that needs a GPU.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
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

// Relative error of rows of `dim` values, but for the few in which the last bits of a score (the
// tensor cores add with 13 bits below the largest product) have turned the rounding of a P' that is
// most of the row: at most one E4M3 step, an eighth. They are returned in `turned`.
inline double ServedError(const std::vector<float>& actual, const std::vector<double>& expected,
                          int dim, int& turned) {
  std::vector<float> some;
  std::vector<double> their_expected;
  turned = 0;
  for (size_t at = 0; at < expected.size(); at += static_cast<size_t>(dim)) {
    const std::vector<float> row(actual.begin() + at, actual.begin() + at + dim);
    const std::vector<double> expected_row(expected.begin() + at, expected.begin() + at + dim);
    const double error = RelativeError(row, expected_row);
    if (error > 0.02 && error <= 0.126) {
      ++turned;
      continue;
    }
    some.insert(some.end(), row.begin(), row.end());
    their_expected.insert(their_expected.end(), expected_row.begin(), expected_row.end());
  }
  return RelativeError(some, their_expected);
}

// With P rounded as served: close to the reference that does the same, row by row but for one row
// in fifty.
inline void ExpectServedRows(const char* name, const AttentionCase& c,
                             const std::vector<float>& actual) {
  const int dim = c.layout.head_dim;
  int turned = 0;
  const double error = ServedError(actual, ReferenceAttention(c, ProbRounding::kE4M3), dim, turned);
  const int rows = static_cast<int>(actual.size()) / dim;
  std::printf("%-16s served %.2e, %d of %d rows turned\n", name, error, turned, rows);
  EXPECT_LE(error, 3e-3);
  EXPECT_LE(turned, 2 + rows / 50);
}

// `run(e4m3_probs)` is the step's output from poisoned memory. Besides the above: close to the
// reference that does not round P, closer to it with the kernel's finer P, and the same bits twice.
inline void ExpectServedAttention(const char* name, const AttentionCase& c,
                                  const std::function<std::vector<float>(bool)>& run) {
  const std::vector<float> first = run(true);
  const std::vector<float> second = run(true);
  EXPECT_EQ(0, std::memcmp(first.data(), second.data(), first.size() * sizeof(float)));
  ExpectServedRows(name, c, first);
  const std::vector<double> exact = ReferenceAttention(c, ProbRounding::kNone);
  const double exact_error = RelativeError(first, exact);
  const double fine_error = RelativeError(run(false), exact);
  std::printf("%-16s unrounded %.2e  finer P %.2e\n", name, exact_error, fine_error);
  EXPECT_LE(exact_error, 3e-2);
  EXPECT_LE(fine_error, 2.5e-3);
}

}  // namespace fireq::testing
