// The page's places are a bijection, its writers keep to their own nibbles, and what is read back
// is what the grid says.
#include "fireq/formats/kv_page.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace fireq {
namespace {

class KvPageDims : public testing::TestWithParam<int> {};

TEST_P(KvPageDims, EveryCodeHasItsOwnNibble) {
  const KvPageLayout layout{KvGrid::kAsymmetric, 3, GetParam()};
  std::vector<int> uses(2 * layout.head_bytes(), 0);
  for (int t = 0; t < kTokensPerPage; ++t) {
    for (int d = 0; d < layout.head_dim; ++d) {
      for (const NibblePlace at : {layout.KCode(t, d), layout.VCode(t, d)}) {
        ASSERT_TRUE(at.shift == 0 || at.shift == 4);
        ++uses[2 * at.byte + at.shift / 4];
      }
      ASSERT_LT(layout.KCode(t, d).byte, layout.v_offset());
      ASSERT_GE(layout.VCode(t, d).byte, layout.v_offset());
    }
  }
  for (int64_t i = 0; i < 2 * layout.head_bytes(); ++i) {
    ASSERT_EQ(uses[i], i < 2 * layout.k_scale_offset() ? 1 : 0) << "nibble " << i;
  }
  EXPECT_EQ(layout.v_zero_offset() + kTokensPerPage, layout.head_bytes());
}

TEST_P(KvPageDims, RowsPackAndUnpackAsThePlacesSay) {
  const KvPageLayout layout{KvGrid::kAsymmetric, 1, GetParam()};
  std::mt19937 rng(std::random_device{}());
  std::vector<uint8_t> codes(layout.head_dim);
  for (uint8_t& c : codes) c = rng() & 15;
  std::vector<uint8_t> block(layout.head_bytes(), 0xA5);
  PackKRow(codes.data(), layout.head_dim, block.data() + 5 * (layout.head_dim / 2));
  std::vector<uint8_t> back(layout.head_dim);
  UnpackKRow(block.data() + 5 * (layout.head_dim / 2), layout.head_dim, back.data());
  EXPECT_EQ(back, codes);
  for (int d = 0; d < layout.head_dim; ++d) {
    ASSERT_EQ(GetCode(block.data(), layout.KCode(5, d)), codes[d]) << d;
  }
}

INSTANTIATE_TEST_SUITE_P(, KvPageDims, testing::Values(8, 16, 64, 80, 96, 128, 256));

TEST(KvPage, MaskAndShiftGiveRunsInNaturalOrder) {
  const KvPageLayout layout{KvGrid::kAsymmetric, 1, 128};
  for (int b = 0; b < 16; ++b) {
    EXPECT_EQ(layout.KCode(3, 32 + b).byte, 3 * 64 + 16 + b);
    EXPECT_EQ(layout.KCode(3, 32 + b).shift, 0);
    EXPECT_EQ(layout.KCode(3, 48 + b).byte, 3 * 64 + 16 + b);
    EXPECT_EQ(layout.KCode(3, 48 + b).shift, 4);
  }
  for (int b = 0; b < 8; ++b) {
    EXPECT_EQ(layout.VCode(16 + b, 7).byte, 32 * 128 + (128 + 7) * 8 + b);
    EXPECT_EQ(layout.VCode(16 + b, 7).shift, 0);
    EXPECT_EQ(layout.VCode(24 + b, 7).byte, 32 * 128 + (128 + 7) * 8 + b);
    EXPECT_EQ(layout.VCode(24 + b, 7).shift, 4);
  }
}

class KvPageGrids : public testing::TestWithParam<KvGrid> {};

// Tokens and heads written in random order onto poison: each reads back within half a step of its
// grid, and a later neighbour never changes it.
TEST_P(KvPageGrids, StoresReadBackAndNeverTouchANeighbour) {
  const KvPageHost page({GetParam(), 2, 64});
  const int dim = page.layout().head_dim;
  std::mt19937 rng(std::random_device{}());
  std::normal_distribution<float> normal;
  std::vector<uint8_t> bytes(page.layout().page_bytes(), 0xFF);
  std::vector<int> order(2 * kTokensPerPage);
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  std::shuffle(order.begin(), order.end(), rng);
  std::vector<std::vector<float>> k(order.size()), v(order.size());
  for (const int i : order) {
    for (std::vector<float>* x : {&k[i], &v[i]}) {
      x->resize(dim);
      for (float& value : *x) value = normal(rng) + 0.5f;
    }
    page.StoreK(bytes.data(), i % 2, i / 2, k[i].data());
    page.StoreV(bytes.data(), i % 2, i / 2, v[i].data());
  }
  std::vector<float> back(dim);
  const auto expect_near = [&](const std::vector<float>& x) {
    float step = 0.0f;
    if (GetParam() != KvGrid::kFloat) {
      std::vector<uint8_t> codes(dim);
      step = std::abs(Bf16ToFloat(QuantizeKvVector(GetParam(), x.data(), dim, codes.data()).scale));
    }
    // Half a step, one more where z was rounded or the positive side stops at 7/8.
    for (int d = 0; d < dim; ++d) ASSERT_NEAR(back[d], x[d], 1.51f * step) << d;
  };
  for (size_t i = 0; i < order.size(); ++i) {
    page.LoadK(bytes.data(), static_cast<int>(i) % 2, static_cast<int>(i) / 2, back.data());
    expect_near(k[i]);
    page.LoadV(bytes.data(), static_cast<int>(i) % 2, static_cast<int>(i) / 2, back.data());
    expect_near(v[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(, KvPageGrids,
                         testing::Values(KvGrid::kFloat, KvGrid::kSymmetric, KvGrid::kSigned,
                                         KvGrid::kAsymmetric));

TEST(KvPage, ExtremesOfTheGrids) {
  const float x[4] = {-3.0f, 1.0f, 0.0f, 12.0f};
  uint8_t codes[4];
  KvScale s = QuantizeKvVector(KvGrid::kAsymmetric, x, 4, codes);
  EXPECT_EQ(Bf16ToFloat(s.scale), 1.0f);
  EXPECT_EQ(s.zero, 3);
  EXPECT_EQ(codes[0], 0);
  EXPECT_EQ(codes[3], 15);
  s = QuantizeKvVector(KvGrid::kSigned, x, 4, codes);
  EXPECT_EQ(Bf16ToFloat(s.scale), -1.5f);
  EXPECT_EQ(codes[3], 0);
  s = QuantizeKvVector(KvGrid::kSymmetric, x, 4, codes);
  EXPECT_EQ(codes[3], 15);
  const float zeros[4] = {};
  s = QuantizeKvVector(KvGrid::kAsymmetric, zeros, 4, codes);
  EXPECT_EQ(Bf16ToFloat(s.scale), 0x1p-9f);
  EXPECT_EQ(codes[0], s.zero);
}

TEST(KvPage, ANanStaysInItsVector) {
  const KvPageHost page({KvGrid::kAsymmetric, 1, 16});
  std::vector<uint8_t> bytes(page.layout().page_bytes(), 0);
  std::vector<float> x(16, 1.0f), back(16);
  page.StoreV(bytes.data(), 0, 1, x.data());
  x[3] = std::numeric_limits<float>::quiet_NaN();
  page.StoreV(bytes.data(), 0, 9, x.data());  // shares bytes with token 1
  page.LoadV(bytes.data(), 0, 9, back.data());
  for (const float value : back) EXPECT_TRUE(std::isnan(value));
  page.LoadV(bytes.data(), 0, 1, back.data());
  for (const float value : back) EXPECT_NEAR(value, 1.0f, 0.01f);
}

TEST(KvPage, RefusesOddHeads) {
  EXPECT_THROW(KvPageHost({KvGrid::kFloat, 1, 63}), Error);
  EXPECT_THROW(KvPageHost({KvGrid::kFloat, 0, 64}), Error);
}

}  // namespace
}  // namespace fireq
