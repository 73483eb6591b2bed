// Norms, token quantisation, RoPE with the cache's write, embedding and gathering, against double
// precision.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/formats/act_e4m3.h"
#include "tests/support/reference_elementwise.h"
#include "tests/support/reference_linear.h"

namespace fireq {
namespace {

using testing::E4M3HalfStep;
using testing::Poisoned;
using testing::RandomTensor;
using testing::ValueAt;

std::vector<double> Slice(const Tensor& tensor, int64_t begin, int64_t count) {
  std::vector<double> out(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) out[static_cast<size_t>(i)] = ValueAt(tensor, begin + i);
  return out;
}

ActTensor PoisonedCodes(int64_t tokens, int64_t k) {
  return {Poisoned(DType::kE4M3, {tokens, k}), Poisoned(DType::kF32, {tokens}),
          Poisoned(DType::kF32, {tokens, CeilDiv<int64_t>(k, kGroup)})};
}

// Codes, scale and sums of one row against the values they stand for.
void ExpectQuantized(const ActTensor& out, int64_t row, const std::vector<double>& x) {
  double absmax = 0.0;
  for (const double v : x) absmax = std::max(absmax, std::abs(v));
  const double scale = absmax == 0.0 ? 1.0 : absmax / 448;
  EXPECT_NEAR(ValueAt(out.scale, row) / scale, 1.0, 1e-5);
  const auto k = static_cast<int64_t>(x.size());
  std::vector<double> sums(static_cast<size_t>(CeilDiv<int64_t>(k, kGroup)), 0.0);
  for (int64_t i = 0; i < k; ++i) {
    const double code = ValueAt(out.values, row * k + i);
    const double value = x[static_cast<size_t>(i)] / scale;
    ASSERT_NEAR(code, value, E4M3HalfStep(value)) << "row " << row << " element " << i;
    sums[static_cast<size_t>(i / kGroup)] += code;
  }
  for (size_t g = 0; g < sums.size(); ++g) {
    EXPECT_NEAR(
        ValueAt(out.sums, row * static_cast<int64_t>(sums.size()) + static_cast<int64_t>(g)),
        sums[g], 0.02);
  }
}

class CpuElementwiseTest : public ::testing::Test {
 protected:
  std::unique_ptr<Backend> backend_ = MakeCpuBackend({2, false});
  std::mt19937 rng_{99};
};

TEST_F(CpuElementwiseTest, QuantizeIsTheFormatsRounding) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const int64_t k : {1, 17, 128, 576, 1000}) {
      const Tensor x = RandomTensor(dtype, {3, k}, 2.0f, rng_);
      const ActTensor out = PoisonedCodes(3, k);
      backend_->Quantize({.x = x, .out = out});
      for (int64_t t = 0; t < 3; ++t) {
        float absmax = 0.0f;
        for (int64_t i = 0; i < k; ++i) {
          absmax = std::max(absmax, static_cast<float>(std::abs(ValueAt(x, t * k + i))));
        }
        const TokenScale s = MakeTokenScale(absmax);
        EXPECT_EQ(out.scale.as<float>()[t], s.scale);
        for (int64_t i = 0; i < k; ++i) {
          const auto v = static_cast<float>(ValueAt(x, t * k + i));
          ASSERT_EQ(out.values.as<e4m3_t>()[t * k + i], FloatToE4M3(v * s.inv_scale)) << i;
        }
        ExpectQuantized(out, t, Slice(x, t * k, k));
      }
    }
  }
}

TEST_F(CpuElementwiseTest, QuantizeRoundsEveryBf16LikeTheFormat) {
  // A row that holds 448 has the factor 1: every magnitude below it meets the rounding as it is.
  std::vector<float> values{448.0f};
  for (uint32_t bits = 0; bits < 0x43E0; ++bits) {
    values.push_back(Bf16ToFloat(static_cast<bf16_t>(bits)));
    values.push_back(-Bf16ToFloat(static_cast<bf16_t>(bits)));
  }
  const auto k = static_cast<int64_t>(values.size());
  const ActTensor out = PoisonedCodes(1, k);
  backend_->Quantize({.x = Tensor::FromVector(DType::kF32, {1, k}, values), .out = out});
  for (int64_t i = 0; i < k; ++i) {
    ASSERT_EQ(out.values.as<e4m3_t>()[i], FloatToE4M3(values[static_cast<size_t>(i)]))
        << values[static_cast<size_t>(i)];
  }
}

TEST_F(CpuElementwiseTest, ZeroNanAndInfiniteRows) {
  const Tensor x = RandomTensor(DType::kF32, {4, 200}, 1.0f, rng_);
  std::fill(x.as<float>(), x.as<float>() + 200, 0.0f);
  x.as<float>()[200 + 150] = std::nanf("");
  x.as<float>()[400 + 3] = std::numeric_limits<float>::infinity();
  const ActTensor out = PoisonedCodes(4, 200);
  backend_->Quantize({.x = x, .out = out});
  EXPECT_EQ(out.scale.as<float>()[0], 1.0f);
  EXPECT_TRUE(std::isnan(out.scale.as<float>()[1]));
  for (int64_t i = 0; i < 200; ++i) {
    EXPECT_EQ(out.values.as<e4m3_t>()[i], 0);
    EXPECT_TRUE(std::isnan(ValueAt(out.values, 200 + i)));
    EXPECT_EQ(std::isnan(ValueAt(out.values, 400 + i)), i == 3);
  }
  ExpectQuantized(out, 3, Slice(x, 600, 200));
}

TEST_F(CpuElementwiseTest, RmsNormToEveryOutput) {
  for (const int64_t n : {8, 96, 576, 1001}) {
    for (const DType border : {DType::kBF16, DType::kF32}) {
      const Tensor x = RandomTensor(border, {5, n}, 3.0f, rng_);
      const Tensor weight = RandomTensor(DType::kF32, {n}, 1.0f, rng_);
      const Tensor y = Poisoned(border, {5, n});
      const ActTensor codes = PoisonedCodes(5, n);
      backend_->RmsNorm({.x = x, .weight = weight, .eps = 1e-5f, .out = {y, {}, {}}});
      backend_->RmsNorm({.x = x, .weight = weight, .eps = 1e-5f, .out = codes});
      for (int64_t t = 0; t < 5; ++t) {
        const auto expected =
            testing::ReferenceRmsNorm(Slice(x, t * n, n), Slice(weight, 0, n), 1e-5f);
        for (int64_t i = 0; i < n; ++i) {
          const double v = expected[static_cast<size_t>(i)];
          const double tolerance = border == DType::kBF16 ? 1.0 / 250 : 1e-6;
          ASSERT_NEAR(ValueAt(y, t * n + i), v, tolerance * std::abs(v) + 1e-12);
        }
        ExpectQuantized(codes, t, expected);
      }
    }
  }
}

struct RopeCase {
  int64_t heads, kv_heads, dim;
  bool norm, crs, hadamard, e4m3;
  KvGrid grid;
};

// One sequence of `total` tokens written in two steps, the second starting inside a group of 16.
class CpuRopeTest : public ::testing::TestWithParam<RopeCase> {
 protected:
  static constexpr int64_t kTotal = 150;

  BatchView Batch(int64_t begin, int64_t end) {
    BatchView batch;
    batch.num_tokens = end - begin;
    batch.num_sequences = 1;
    std::vector<int32_t> positions;
    for (int64_t i = begin; i < end; ++i) positions.push_back(static_cast<int32_t>(i));
    batch.positions = Tensor::FromVector(DType::kI32, {end - begin}, positions);
    batch.query_start = Tensor::FromVector<int32_t>(DType::kI32, {2}, {0, int32_t(end - begin)});
    batch.context_len = Tensor::FromVector<int32_t>(DType::kI32, {1}, {int32_t(end)});
    batch.page_table = Tensor::FromVector<int32_t>(DType::kI32, {1, 3}, {2, 0, 1});
    return batch;
  }
};

TEST_P(CpuRopeTest, AgreesWithDoublePrecision) {
  const RopeCase c = GetParam();
  std::mt19937 rng(4);
  const auto backend = MakeCpuBackend({2, false});
  RopeKvWriteArgs args;
  args.kv.layout = {c.grid, static_cast<int>(c.kv_heads), static_cast<int>(c.dim)};
  args.kv.pages = Poisoned(DType::kU8, {3, args.kv.layout.page_bytes()});
  args.num_heads = c.heads;
  args.norm_eps = 1e-6f;
  args.qk_hadamard = c.hadamard;
  args.rope_cos = RandomTensor(DType::kF32, {kTotal, c.dim / 2}, 0.7f, rng);
  args.rope_sin = RandomTensor(DType::kF32, {kTotal, c.dim / 2}, 0.7f, rng);
  if (c.norm) args.q_norm = RandomTensor(DType::kF32, {c.dim}, 1.0f, rng);
  if (c.norm) args.k_norm = RandomTensor(DType::kF32, {c.dim}, 1.0f, rng);
  if (c.crs) args.crs_q = RandomTensor(DType::kF32, {c.kv_heads, c.dim}, 1.0f, rng);
  if (c.crs) args.crs_k = RandomTensor(DType::kF32, {c.kv_heads, c.dim}, 1.0f, rng);
  const int64_t width = (c.heads + 2 * c.kv_heads) * c.dim;
  const Tensor qkv = RandomTensor(DType::kBF16, {kTotal, width}, 1.0f, rng);
  ActTensor q;
  q.values = Poisoned(c.e4m3 ? DType::kE4M3 : DType::kF32, {kTotal, c.heads * c.dim});
  q.scale = Poisoned(DType::kF32, {kTotal, c.heads});
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 71}, {71, kTotal}}) {
    const BatchView batch = Batch(begin, end);
    args.batch = &batch;
    args.qkv = qkv.Rows(begin, end);
    args.q = {q.values.Rows(begin, end), c.e4m3 ? q.scale.Rows(begin, end) : Tensor(), {}};
    backend->RopeKvWrite(args);
  }
  const KvPageHost pages(args.kv.layout);
  const int32_t table[] = {2, 0, 1};
  for (int64_t t = 0; t < kTotal; ++t) {
    testing::HeadTurn turn;
    turn.eps = args.norm_eps;
    turn.hadamard = c.hadamard;
    turn.cos = Slice(args.rope_cos, t * c.dim / 2, c.dim / 2);
    turn.sin = Slice(args.rope_sin, t * c.dim / 2, c.dim / 2);
    if (c.norm) turn.norm = Slice(args.q_norm, 0, c.dim);
    for (int64_t h = 0; h < c.heads; ++h) {
      if (c.crs) turn.crs = Slice(args.crs_q, h / (c.heads / c.kv_heads) * c.dim, c.dim);
      const auto x = testing::ReferenceTurn(Slice(qkv, t * width + h * c.dim, c.dim), turn);
      double absmax = 0.0;
      for (const double v : x) absmax = std::max(absmax, std::abs(v));
      const double scale = c.e4m3 ? ValueAt(q.scale, t * c.heads + h) : 1.0;
      if (c.e4m3) {
        ASSERT_NEAR(scale, absmax / 448, 1e-5 * absmax);
      }
      for (int64_t d = 0; d < c.dim; ++d) {
        const double v = x[static_cast<size_t>(d)] / scale;
        ASSERT_NEAR(ValueAt(q.values, (t * c.heads + h) * c.dim + d), v,
                    c.e4m3 ? E4M3HalfStep(v) : 1e-5 * absmax);
      }
    }
    if (c.norm) turn.norm = Slice(args.k_norm, 0, c.dim);
    const uint8_t* page =
        args.kv.pages.as<uint8_t>() + table[t / kTokensPerPage] * args.kv.layout.page_bytes();
    for (int64_t h = 0; h < 2 * c.kv_heads; ++h) {
      const bool is_k = h < c.kv_heads;
      if (c.crs) turn.crs = Slice(args.crs_k, h % c.kv_heads * c.dim, c.dim);
      const auto raw = Slice(qkv, t * width + (c.heads + h) * c.dim, c.dim);
      const auto x = is_k ? testing::ReferenceTurn(raw, turn) : raw;
      std::vector<float> stored(static_cast<size_t>(c.dim));
      const int head = static_cast<int>(h % c.kv_heads);
      const int slot = static_cast<int>(t % kTokensPerPage);
      (is_k ? pages.LoadK(page, head, slot, stored.data())
            : pages.LoadV(page, head, slot, stored.data()));
      double lo = 0.0;
      double hi = 0.0;
      for (const double v : x) lo = std::min(lo, v), hi = std::max(hi, v);
      const double most = std::max(hi, -lo);
      // Half a step of the grid; asymmetric zero points and the signed grid's far end may clip by
      // up to a step.
      const double step = c.grid == KvGrid::kAsymmetric ? (hi - lo) / 15 : most / 7;
      const double tolerance = c.grid == KvGrid::kFloat ? 1e-5 * most : 1.02 * step;
      for (int64_t d = 0; d < c.dim; ++d) {
        ASSERT_NEAR(stored[static_cast<size_t>(d)], x[static_cast<size_t>(d)], tolerance)
            << "token " << t << (is_k ? " K" : " V") << " head " << head << " d " << d;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, CpuRopeTest,
    ::testing::Values(RopeCase{9, 3, 64, false, true, false, true, KvGrid::kAsymmetric},
                      RopeCase{8, 8, 8, false, false, false, false, KvGrid::kFloat},
                      RopeCase{4, 2, 128, true, false, true, true, KvGrid::kSigned},
                      RopeCase{3, 1, 40, true, true, false, true, KvGrid::kSymmetric}));

TEST_F(CpuElementwiseTest, EmbedGatherAndCopy) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Tensor table = RandomTensor(dtype, {7, 19}, 1.0f, rng_);
    const Tensor ids = Tensor::FromVector<int32_t>(DType::kI32, {3}, {6, 0, 6});
    const Tensor out = Poisoned(DType::kF32, {3, 19});
    backend_->Embed({.ids = ids, .table = table, .out = out});
    for (int64_t i = 0; i < 3 * 19; ++i) {
      EXPECT_EQ(ValueAt(out, i), ValueAt(table, ids.as<int32_t>()[i / 19] * 19 + i % 19));
    }
    const Tensor rows = Tensor::FromVector<int32_t>(DType::kI32, {1}, {2});
    const Tensor gathered = Poisoned(DType::kF32, {1, 19});
    backend_->GatherRows(out, rows, gathered);
    EXPECT_EQ(std::memcmp(gathered.data(), out.Rows(2, 3).data(), 19 * 4), 0);
  }
}

}  // namespace
}  // namespace fireq
