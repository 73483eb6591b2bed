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

TEST_F(CpuElementwiseTest, Int8RowsOfTensorsAndNorms) {
  constexpr int64_t kRows = 4, kWidth = 200;
  const Tensor x = RandomTensor(DType::kF32, {kRows, kWidth}, 2.0f, rng_);
  std::fill(x.as<float>(), x.as<float>() + kWidth, 0.0f);
  x.as<float>()[kWidth + 150] = std::nanf("");
  const ActTensor out{Poisoned(DType::kI8, {kRows, kWidth}), Poisoned(DType::kF32, {kRows}), {}};
  const auto expect_rows = [&](const std::vector<double>& values) {
    EXPECT_EQ(out.scale.as<float>()[0], 1.0f);
    EXPECT_TRUE(std::isnan(out.scale.as<float>()[1]));
    for (int64_t i = 0; i < kWidth; ++i) EXPECT_EQ(ValueAt(out.values, i), 0.0);
    for (int64_t t = 2; t < kRows; ++t) {
      double absmax = 0.0, largest = 0.0;
      for (int64_t i = t * kWidth; i < (t + 1) * kWidth; ++i)
        absmax = std::max(absmax, std::abs(values[static_cast<size_t>(i)]));
      EXPECT_NEAR(out.scale.as<float>()[t] * 127 / absmax, 1.0, 1e-5);
      for (int64_t i = t * kWidth; i < (t + 1) * kWidth; ++i) {
        const double code = ValueAt(out.values, i);
        EXPECT_NEAR(code, values[static_cast<size_t>(i)] * 127 / absmax, 0.501);
        largest = std::max(largest, std::abs(code));
      }
      EXPECT_EQ(largest, 127.0);
    }
  };
  backend_->Quantize({.x = x, .out = out});
  expect_rows(Slice(x, 0, kRows * kWidth));
  const Tensor weight = RandomTensor(DType::kF32, {kWidth}, 1.0f, rng_);
  const Tensor normed = Poisoned(DType::kF32, {kRows, kWidth});
  backend_->RmsNorm({.x = x, .weight = weight, .eps = 1e-5f, .out = {normed, {}, {}}});
  backend_->RmsNorm({.x = x, .weight = weight, .eps = 1e-5f, .out = out});
  expect_rows(Slice(normed, 0, kRows * kWidth));
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
  // With values of 0.001 eps is ten times their mean square.
  for (const float size : {3.0f, 1e-3f}) {
    for (const int64_t n : {8, 96, 576, 1001}) {
      for (const DType border : {DType::kBF16, DType::kF32}) {
        const Tensor x = RandomTensor(border, {5, n}, size, rng_);
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
}

struct RopeCase {
  int64_t heads, kv_heads, dim;
  bool norm, crs, hadamard, e4m3;
  KvGrid grid;
};

// One sequence of `kTotal` tokens written in two steps, the second starting inside a group of 16.
class CpuRopeTest : public ::testing::TestWithParam<RopeCase> {
 protected:
  static constexpr int64_t kTotal = 150;
  static constexpr int32_t kPages[] = {2, 0, 1};

  void SetUp() override {
    std::mt19937 rng(4);
    args_.kv.layout = {c_.grid, static_cast<int>(c_.kv_heads), static_cast<int>(c_.dim)};
    args_.kv.pages = Poisoned(DType::kU8, {3, args_.kv.layout.page_bytes()});
    args_.num_heads = c_.heads;
    args_.norm_eps = 1e-6f;
    args_.qk_hadamard = c_.hadamard;
    args_.rope_cos = RandomTensor(DType::kF32, {kTotal, c_.dim / 2}, 0.7f, rng);
    args_.rope_sin = RandomTensor(DType::kF32, {kTotal, c_.dim / 2}, 0.7f, rng);
    if (c_.norm) args_.q_norm = RandomTensor(DType::kF32, {c_.dim}, 1.0f, rng);
    if (c_.norm) args_.k_norm = RandomTensor(DType::kF32, {c_.dim}, 1.0f, rng);
    if (c_.crs) args_.crs_q = RandomTensor(DType::kF32, {c_.kv_heads, c_.dim}, 1.0f, rng);
    if (c_.crs) args_.crs_k = RandomTensor(DType::kF32, {c_.kv_heads, c_.dim}, 1.0f, rng);
    if (c_.crs) args_.key_shift = RandomTensor(DType::kF32, {c_.kv_heads, c_.dim}, 1.0f, rng);
    qkv_ = RandomTensor(DType::kBF16, {kTotal, (c_.heads + 2 * c_.kv_heads) * c_.dim}, 1.0f, rng);
    q_.values = Poisoned(c_.e4m3 ? DType::kE4M3 : DType::kF32, {kTotal, c_.heads * c_.dim});
    q_.scale = Poisoned(DType::kF32, {kTotal, c_.heads});
  }

  void Write(int64_t begin, int64_t end) {
    BatchView batch;
    batch.num_tokens = end - begin;
    batch.num_sequences = 1;
    std::vector<int32_t> positions;
    for (int64_t i = begin; i < end; ++i) positions.push_back(static_cast<int32_t>(i));
    batch.positions = Tensor::FromVector(DType::kI32, {end - begin}, positions);
    batch.query_start = Tensor::FromVector<int32_t>(DType::kI32, {2}, {0, int32_t(end - begin)});
    batch.context_len = Tensor::FromVector<int32_t>(DType::kI32, {1}, {int32_t(end)});
    batch.page_table =
        Tensor::FromVector<int32_t>(DType::kI32, {1, 3}, {kPages[0], kPages[1], kPages[2]});
    args_.batch = &batch;
    args_.qkv = qkv_.Rows(begin, end);
    args_.q = {q_.values.Rows(begin, end), c_.e4m3 ? q_.scale.Rows(begin, end) : Tensor(), {}};
    MakeCpuBackend({2, false})->RopeKvWrite(args_);
  }

  // Head `head` of the fused projection, as it is.
  std::vector<double> Projected(int64_t t, int64_t head) const {
    return Slice(qkv_, t * qkv_.dim(1) + head * c_.dim, c_.dim);
  }
  testing::HeadTurn Turn(int64_t t, const Tensor& norm, const Tensor& crs, int64_t kv_head) const {
    testing::HeadTurn turn;
    turn.eps = args_.norm_eps;
    turn.hadamard = c_.hadamard;
    turn.cos = Slice(args_.rope_cos, t * c_.dim / 2, c_.dim / 2);
    turn.sin = Slice(args_.rope_sin, t * c_.dim / 2, c_.dim / 2);
    if (c_.norm) turn.norm = Slice(norm, 0, c_.dim);
    if (c_.crs) turn.crs = Slice(crs, kv_head * c_.dim, c_.dim);
    return turn;
  }

  void CheckQuery(int64_t t, int64_t head) const {
    const auto turn = Turn(t, args_.q_norm, args_.crs_q, head / (c_.heads / c_.kv_heads));
    const auto x = testing::ReferenceTurn(Projected(t, head), turn);
    double absmax = 0.0;
    for (const double v : x) absmax = std::max(absmax, std::abs(v));
    const double scale = c_.e4m3 ? ValueAt(q_.scale, t * c_.heads + head) : 1.0;
    if (c_.e4m3) {
      ASSERT_NEAR(scale, absmax / 448, 1e-5 * absmax);
    }
    for (int64_t d = 0; d < c_.dim; ++d) {
      const double v = x[static_cast<size_t>(d)] / scale;
      ASSERT_NEAR(ValueAt(q_.values, (t * c_.heads + head) * c_.dim + d), v,
                  c_.e4m3 ? E4M3HalfStep(v) : 1e-5 * absmax);
    }
  }

  // Half a step of the grid; asymmetric zero points and the signed grid's far end may clip by up to
  // a step.
  double Tolerance(const std::vector<double>& x) const {
    double lo = 0.0;
    double hi = 0.0;
    for (const double v : x) lo = std::min(lo, v), hi = std::max(hi, v);
    const double most = std::max(hi, -lo);
    if (c_.grid == KvGrid::kFloat) return 1e-5 * most;
    return 1.02 * (c_.grid == KvGrid::kAsymmetric ? (hi - lo) / 15 : most / 7);
  }

  void CheckStored(int64_t t, int64_t kv_head, bool is_k) const {
    const auto raw = Projected(t, c_.heads + (is_k ? 0 : c_.kv_heads) + kv_head);
    testing::HeadTurn turn = Turn(t, args_.k_norm, args_.crs_k, kv_head);
    if (c_.crs) turn.shift = Slice(args_.key_shift, kv_head * c_.dim, c_.dim);
    const auto x = is_k ? testing::ReferenceTurn(raw, turn) : raw;
    const uint8_t* page =
        args_.kv.pages.as<uint8_t>() + kPages[t / kTokensPerPage] * args_.kv.layout.page_bytes();
    std::vector<float> stored(static_cast<size_t>(c_.dim));
    const KvPageHost pages(args_.kv.layout);
    const int head = static_cast<int>(kv_head);
    const int slot = static_cast<int>(t % kTokensPerPage);
    (is_k ? pages.LoadK(page, head, slot, stored.data())
          : pages.LoadV(page, head, slot, stored.data()));
    const double tolerance = Tolerance(x);
    for (size_t d = 0; d < x.size(); ++d)
      ASSERT_NEAR(stored[d], x[d], tolerance)
          << "token " << t << (is_k ? " K" : " V") << " head " << head << " d " << d;
  }

  const RopeCase c_ = GetParam();
  RopeKvWriteArgs args_;
  Tensor qkv_;
  ActTensor q_;
};

TEST_P(CpuRopeTest, AgreesWithDoublePrecision) {
  Write(0, 71);
  Write(71, kTotal);
  for (int64_t t = 0; t < kTotal; ++t) {
    for (int64_t head = 0; head < c_.heads; ++head) ASSERT_NO_FATAL_FAILURE(CheckQuery(t, head));
    for (int64_t head = 0; head < c_.kv_heads; ++head) {
      ASSERT_NO_FATAL_FAILURE(CheckStored(t, head, /*is_k=*/true));
      ASSERT_NO_FATAL_FAILURE(CheckStored(t, head, /*is_k=*/false));
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
    // ~1 and ~0 stand for ids chosen on the device; no choice embeds as 0.
    const Tensor stand_ins = Tensor::FromVector<int32_t>(DType::kI32, {3}, {~1, 2, ~0});
    const Tensor chosen = Tensor::FromVector<int32_t>(DType::kI32, {2}, {-1, 5});
    backend_->Embed({.ids = stand_ins, .table = table, .chosen = chosen, .out = out});
    constexpr int64_t kMeant[] = {5, 2, 0};
    for (int64_t i = 0; i < 3 * 19; ++i) {
      EXPECT_EQ(ValueAt(out, i), ValueAt(table, kMeant[i / 19] * 19 + i % 19));
    }
    const Tensor rows = Tensor::FromVector<int32_t>(DType::kI32, {1}, {2});
    const Tensor gathered = Poisoned(DType::kF32, {1, 19});
    backend_->GatherRows(out, rows, gathered);
    EXPECT_EQ(std::memcmp(gathered.data(), out.Rows(2, 3).data(), 19 * 4), 0);
  }
}

}  // namespace
}  // namespace fireq
