// The fused kernel after the QKV GEMM against the same arithmetic in double on the host, byte by
// byte of the cache: what is not in the step must keep every bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "fireq/backends/sm90/rope_kv_write/launch.h"
#include "fireq/backends/sm90/runtime/stream.h"
#include "fireq/base/math.h"
#include "fireq/formats/act_e4m3.h"
#include "tests/backends/sm90/attention_on_device.h"

namespace fireq::sm90 {
namespace {

struct Case : testing::NamedAttentionCase {
  bool norm;
  bool crs;
  bool hadamard;
};

// A step on the host.
struct Step {
  explicit Step(const Case& t) : c(t), layout{t.grid, t.kv_heads, t.head_dim} {
    std::mt19937 rng(std::random_device{}());
    std::normal_distribution<float> normal;
    query_start.push_back(0);
    for (const int32_t n : c.query_len) query_start.push_back(query_start.back() + n);
    int32_t longest = 0;
    for (const int32_t n : c.context_len) longest = std::max(longest, n);
    max_pages = CeilDiv(longest, kTokensPerPage) + 1;
    const int32_t sequences = static_cast<int32_t>(c.query_len.size());
    for (int32_t i = 0; i < sequences * max_pages; ++i)
      page_table.push_back((i * 7 + 3) % (sequences * max_pages));  // 7 divides no size used here
    pages.resize(page_table.size() * layout.page_bytes());
    for (uint8_t& byte : pages) byte = static_cast<uint8_t>(rng());
    qkv.resize(int64_t{query_start.back()} * (c.heads + 2 * c.kv_heads) * c.head_dim);
    for (bf16_t& x : qkv) x = FloatToBf16(normal(rng) + 0.3f);
    for (int32_t p = 0; p < longest; ++p) {
      for (int f = 0; f < c.head_dim / 2; ++f) {
        const double angle = p * std::pow(10000.0, -2.0 * f / c.head_dim);
        cosine.push_back(static_cast<float>(std::cos(angle)));
        sine.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    for (int i = 0; i < c.head_dim; ++i) norm.push_back(1.0f + 0.2f * normal(rng));
    for (int i = 0; i < c.head_dim * c.kv_heads; ++i) {
      crs_k.push_back(std::exp2(std::round(normal(rng))));
      crs_q.push_back(1.0f / crs_k.back());
      key_shift.push_back(normal(rng));
    }
  }

  // Head `head` of token `token` at `position`, as it is quantised; kind 0 Q, 1 K, 2 V.
  std::vector<float> Vector(int64_t token, int32_t position, int head, int kind) const {
    const int dim = c.head_dim;
    const int kv_head = kind == 0 ? head / (c.heads / c.kv_heads) : head;
    const int index = head + (kind > 0 ? c.heads : 0) + (kind > 1 ? c.kv_heads : 0);
    std::vector<double> x(dim);
    for (int d = 0; d < dim; ++d)
      x[d] = Bf16ToFloat(qkv[(token * (c.heads + 2 * c.kv_heads) + index) * dim + d]);
    if (kind < 2) Rotate(x, position, kind == 0 ? crs_q : crs_k, kv_head, kind == 1);
    return {x.begin(), x.end()};
  }

  void Rotate(std::vector<double>& x, int32_t position, const std::vector<float>& crs, int kv_head,
              bool is_key) const {
    const int dim = c.head_dim;
    if (c.norm) {
      double squares = 0.0;
      for (const double value : x) squares += value * value;
      for (int d = 0; d < dim; ++d) x[d] *= norm[d] / std::sqrt(squares / dim + 1e-6);
    }
    for (int f = 0; f < dim / 2; ++f) {
      const double a = x[f];
      const double b = x[f + dim / 2];
      const double co = cosine[position * (dim / 2) + f];
      const double si = sine[position * (dim / 2) + f];
      x[f] = a * co - b * si;
      x[f + dim / 2] = b * co + a * si;
    }
    if (c.crs)
      for (int d = 0; d < dim; ++d) x[d] *= crs[kv_head * dim + d];
    if (c.crs && is_key)
      for (int d = 0; d < dim; ++d) x[d] -= key_shift[kv_head * dim + d];
    if (!c.hadamard) return;
    std::vector<double> y(dim, 0.0);
    for (int i = 0; i < dim; ++i) {
      for (int d = 0; d < dim; ++d)
        y[i] += (__builtin_popcount(i & d) % 2 == 0 ? x[d] : -x[d]) / std::sqrt(double(dim));
    }
    x = y;
  }

  Case c;
  KvPageLayout layout;
  int max_pages = 0;
  std::vector<int32_t> query_start, page_table;
  std::vector<uint8_t> pages;
  std::vector<bf16_t> qkv;
  std::vector<float> cosine, sine, norm, crs_q, crs_k, key_shift;
};

class RopeKvWriteCases : public ::testing::TestWithParam<Case> {};

TEST_P(RopeKvWriteCases, MatchesTheHost) {
  FIREQ_NEEDS_HOPPER();
  const Step step(GetParam());
  const Case& c = step.c;
  const int64_t tokens = step.query_start.back();
  const DeviceBuffer<bf16_t> qkv(step.qkv);
  const DeviceBuffer<int32_t> query_start(step.query_start), context_len(c.context_len),
      page_table(step.page_table);
  const DeviceBuffer<float> cosine(step.cosine), sine(step.sine), norm(step.norm),
      crs_q(step.crs_q), crs_k(step.crs_k), key_shift(step.key_shift);
  const DeviceBuffer<uint8_t> pages(step.pages);
  DeviceBuffer<uint8_t> q(tokens * c.heads * c.head_dim);
  DeviceBuffer<float> scale_q(tokens * c.heads);
  q.FillBytes(0xFF);
  scale_q.FillBytes(0xFF);
  RopeKvWriteParams params;
  params.qkv = qkv.data();
  params.query_start = query_start.data();
  params.context_len = context_len.data();
  params.page_table = page_table.data();
  params.rope_cos = cosine.data();
  params.rope_sin = sine.data();
  params.q_norm = params.k_norm = c.norm ? norm.data() : nullptr;
  params.crs_q = c.crs ? crs_q.data() : nullptr;
  params.crs_k = c.crs ? crs_k.data() : nullptr;
  params.key_shift = c.crs ? key_shift.data() : nullptr;
  params.norm_eps = 1e-6f;
  params.hadamard = c.hadamard;
  params.grid = c.grid;
  params.q = q.data();
  params.scale_q = scale_q.data();
  params.pages = pages.data();
  params.num_sequences = static_cast<int32_t>(c.query_len.size());
  params.max_query_len = *std::max_element(c.query_len.begin(), c.query_len.end());
  params.num_heads = c.heads;
  params.kv_heads = c.kv_heads;
  params.max_pages = step.max_pages;
  const Stream stream;
  LaunchRopeKvWrite(params, c.head_dim, stream.get());
  stream.Synchronize();

  // Q: decoded codes within half a unit of E4M3 (1/16 of the value, or of the smallest normal).
  const std::vector<uint8_t> codes = q.ToHost();
  const std::vector<float> scales = scale_q.ToHost();
  std::vector<uint8_t> expected = step.pages;
  const KvPageHost host(step.layout);
  for (size_t s = 0; s < c.query_len.size(); ++s) {
    for (int i = 0; i < c.query_len[s]; ++i) {
      const int64_t token = step.query_start[s] + i;
      const int32_t position = c.context_len[s] - c.query_len[s] + i;
      for (int h = 0; h < c.heads; ++h) {
        const std::vector<float> x = step.Vector(token, position, h, 0);
        const int64_t row = token * c.heads + h;
        for (int d = 0; d < c.head_dim; ++d) {
          const float decoded = E4M3ToFloat(codes[row * c.head_dim + d]) * scales[row];
          ASSERT_NEAR(decoded, x[d], std::abs(x[d]) * 0.0626f + scales[row] * 0x1p-9f)
              << "token " << token << " head " << h << " d " << d;
        }
      }
      uint8_t* page = expected.data() +
                      int64_t{step.page_table[s * step.max_pages + position / kTokensPerPage]} *
                          step.layout.page_bytes();
      for (int h = 0; h < c.kv_heads; ++h) {
        host.StoreK(page, h, position % kTokensPerPage, step.Vector(token, position, h, 1).data());
        host.StoreV(page, h, position % kTokensPerPage, step.Vector(token, position, h, 2).data());
      }
    }
  }
  // Pages: V (no arithmetic before its rounding) and all bytes outside the step to the bit; of K a
  // code may fall on the other side of a rounding boundary now and then, never by more than one.
  const std::vector<uint8_t> actual = pages.ToHost();
  int64_t different = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (actual[i] == expected[i]) continue;
    const int64_t at = static_cast<int64_t>(i) % step.layout.head_bytes();
    ++different;
    ASSERT_TRUE(at < step.layout.v_offset() ||
                (at >= step.layout.k_scale_offset() && at < step.layout.v_scale_offset()))
        << "byte " << at << " of a head's block";
    if (at < step.layout.v_offset()) {
      ASSERT_LE(std::abs((actual[i] & 15) - (expected[i] & 15)), 1);
      ASSERT_LE(std::abs((actual[i] >> 4) - (expected[i] >> 4)), 1);
    }
  }
  const double share =
      static_cast<double>(different) / static_cast<double>(tokens * c.kv_heads * c.head_dim / 2);
  std::printf("rope %-12s K bytes that differ: %.2e of those written\n", c.name, share);
  EXPECT_LE(share, 2e-3);
}

constexpr KvGrid kAsym = KvGrid::kAsymmetric;
using Vector = std::vector<int32_t>;
INSTANTIATE_TEST_SUITE_P(
    , RopeKvWriteCases,
    ::testing::Values(
        Case{{"decode", {1, 1, 1, 1}, {1, 64, 65, 301}, 32, 8, 128, kAsym}, false, false, false},
        Case{{"speculative", {8, 3, 0, 5}, {8, 66, 12, 69}, 8, 2, 128, kAsym}, false, true, false},
        Case{{"prefill", {100, 64, 9}, {100, 64, 9}, 8, 2, 128, kAsym}, false, false, false},
        Case{{"chunk", {70, 1, 30}, {205, 77, 45}, 8, 2, 128, kAsym}, true, true, false},
        Case{{"none", {40, 0, 9, 0}, {40, 21, 150, 77}, 8, 2, 128, kAsym}, false, false, false},
        Case{{"hadamard", {40, 9}, {40, 150}, 4, 4, 128, kAsym}, false, false, true},
        Case{{"64", {40, 9, 3}, {40, 150, 11}, 8, 2, 64, kAsym}, true, true, true},
        Case{{"64 decode", {1, 2}, {40, 150}, 14, 2, 64, kAsym}, false, false, true},
        Case{{"symmetric", {33, 2}, {40, 66}, 8, 2, 128, KvGrid::kSymmetric}, false, false, false},
        Case{{"signed", {33, 2}, {40, 66}, 8, 2, 128, KvGrid::kSigned}, false, false, false},
        Case{{"few", {1, 4}, {40, 66}, 8, 2, 128, KvGrid::kSigned}, false, true, true},
        Case{{"few, 64", {3, 1}, {64, 66}, 8, 2, 64, KvGrid::kSymmetric}, false, true, false},
        Case{{"few, norm", {2, 1}, {30, 66}, 8, 2, 128, kAsym}, true, false, false},
        Case{{"many", Vector(130, 1), Vector(130, 70), 32, 8, 128, kAsym}, false, true, true},
        Case{{"many, 64", Vector(260, 1), Vector(260, 9), 16, 4, 64, kAsym}, false, false, false}),
    [](const auto& which) { return "Case" + std::to_string(which.index); });

}  // namespace
}  // namespace fireq::sm90
