// Linear layers of the CPU backend against double precision: both products, every epilogue, every
// kind of weight, odd sizes, both sets of kernels, any number of threads.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "fireq/formats/act_e4m3.h"
#include "tests/backends/cpu/kernel_sets.h"
#include "tests/support/reference_linear.h"

namespace fireq {
namespace {

using testing::Poisoned;
using testing::RandomTensor;
using testing::RandomWeightI4;
using testing::ReferenceSums;
using testing::ValueAt;

constexpr double kBf16Epsilon = 1.0 / 256;  // half a unit in the last place, relative
constexpr double kF32Epsilon = 0x1p-24;

struct Sizes {
  int64_t tokens;
  int64_t k;
  std::vector<int64_t> n;  // of each part
};

ActTensor RandomCodes(DType dtype, int64_t tokens, int64_t k, std::mt19937& rng) {
  ActTensor x;
  x.values = RandomTensor(dtype, {tokens, k}, 60.0f, rng);
  x.scale = Tensor::Empty(DType::kF32, {tokens});
  for (int64_t t = 0; t < tokens; ++t)
    x.scale.as<float>()[t] = std::ldexp(1.0f + static_cast<float>(t % 5) / 7, -9);
  if (dtype == DType::kI8) return x;
  x.sums = Tensor::Zeros(DType::kF32, {tokens, CeilDiv<int64_t>(k, kGroup)});
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < k; ++i) {
      x.sums.as<float>()[t * CeilDiv<int64_t>(k, kGroup) + i / kGroup] +=
          static_cast<float>(ValueAt(x.values, t * k + i));
    }
  }
  return x;
}

std::vector<LinearPart> RandomParts(const Sizes& sizes, DType weights, bool bias,
                                    std::mt19937& rng) {
  std::vector<LinearPart> parts;
  for (size_t p = 0; p < sizes.n.size(); ++p) {
    LinearPart& part = parts.emplace_back();
    part.name = StrCat("part", p);
    if (weights == DType::kU8) {
      part.i4 = RandomWeightI4(sizes.n[p], sizes.k, std::ldexp(1.0f, static_cast<int>(p) * 3), rng);
    } else {
      part.weight = RandomTensor(weights, {sizes.n[p], sizes.k}, 0.5f, rng);
    }
    if (bias) part.bias = RandomTensor(DType::kF32, {sizes.n[p]}, 3.0f, rng);
  }
  return parts;
}

double Border(double x, DType dtype) {
  return dtype == DType::kBF16 ? RoundToBf16(static_cast<float>(x)) : x;
}

// |actual - expected| within the errors of FP32 sums of K terms of this magnitude, and half a unit
// of the border (a whole one where the double and the FP32 sum fall to different sides).
void ExpectClose(const Tensor& y, int64_t i, double expected, double magnitude, int64_t k) {
  const double rounding = y.dtype() == DType::kBF16 ? kBf16Epsilon * std::abs(expected) : 0.0;
  const double sums = kF32Epsilon * (8.0 + std::sqrt(static_cast<double>(k))) * magnitude;
  ASSERT_LE(std::abs(ValueAt(y, i) - expected), sums + rounding) << "element " << i;
}

struct LinearCase {
  Sizes sizes;
  DType weights;  // U8: INT4
  DType x;
  DType y;
  Products products;
  bool bias;
};

class CpuLinearTest : public ::testing::TestWithParam<testing::KernelSet> {
 protected:
  std::unique_ptr<Backend> backend_ = testing::MakeBackend(2, GetParam());
  std::mt19937 rng_{20240917};

  ActTensor RandomInput(const LinearCase& c) {
    if (IsCodes(c.x)) return RandomCodes(c.x, c.sizes.tokens, c.sizes.k, rng_);
    return {RandomTensor(c.x, {c.sizes.tokens, c.sizes.k}, 1.0f, rng_), {}, {}};
  }

  void CheckPlain(const LinearCase& c) {
    SCOPED_TRACE(StrCat("T ", c.sizes.tokens, " K ", c.sizes.k, " weights ", Name(c.weights), " x ",
                        Name(c.x), " y ", Name(c.y)));
    const std::vector<LinearPart> parts = RandomParts(c.sizes, c.weights, c.bias, rng_);
    const ActTensor x = RandomInput(c);
    const auto w = backend_->Prepare({parts, false});
    const Tensor y = Poisoned(c.y, {c.sizes.tokens, w->n()});
    backend_->Linear({.x = x, .w = w.get(), .products = c.products, .y = y});
    std::vector<double> magnitude;
    const std::vector<double> sums =
        ReferenceSums(x, parts, ResolveProducts(c.products, c.sizes.tokens), &magnitude);
    for (size_t i = 0; i < sums.size(); ++i) {
      ExpectClose(y, static_cast<int64_t>(i), sums[i], magnitude[i], c.sizes.k);
    }
  }
};

TEST_P(CpuLinearTest, Int4BothProductsAndOddSizes) {
  for (const Products products : {Products::kExact, Products::kTable, Products::kServed}) {
    for (const int64_t tokens : {0, 1, 2, 3, 5, 8, 9, 17, 129}) {
      CheckPlain({{tokens, 576, {70, 33}}, DType::kU8, DType::kE4M3, DType::kBF16, products, true});
    }
    for (const int64_t k : {8, 64, 127, 172, 1088, 2113}) {
      CheckPlain({{1, k, {65}}, DType::kU8, DType::kE4M3, DType::kF32, products, false});
      CheckPlain({{21, k, {31}}, DType::kU8, DType::kE4M3, DType::kF32, products, false});
    }
  }
}

TEST_P(CpuLinearTest, Int8InputsOfFloatWeights) {
  for (const DType weights : {DType::kF32, DType::kBF16})
    for (const int64_t tokens : {1, 4, 13, 300})
      CheckPlain(
          {{tokens, 200, {67, 5}}, weights, DType::kI8, DType::kF32, Products::kExact, true});
}

TEST_P(CpuLinearTest, FloatWeightsAndInputs) {
  for (const DType weights : {DType::kF32, DType::kBF16, DType::kF16, DType::kU8}) {
    for (const DType x : {DType::kF32, DType::kBF16}) {
      for (const int64_t tokens : {1, 4, 13}) {
        CheckPlain({{tokens, 200, {67, 5}}, weights, x, DType::kF32, Products::kExact, true});
      }
    }
  }
}

TEST_P(CpuLinearTest, ResidualIsRoundedTwice) {
  for (const int64_t tokens : {1, 3, 40}) {
    for (const DType border : {DType::kBF16, DType::kF32}) {
      const Sizes sizes{tokens, 320, {129}};
      const auto parts = RandomParts(sizes, DType::kU8, false, rng_);
      const ActTensor x = RandomCodes(DType::kE4M3, tokens, sizes.k, rng_);
      const auto w = backend_->Prepare({parts, false});
      const Tensor residual = RandomTensor(border, {tokens, 129}, 2.0f, rng_);
      Tensor y = Tensor::Empty(border, {tokens, 129});  // in place, as the residual stream is
      std::memcpy(y.data(), residual.data(), static_cast<size_t>(y.size_bytes()));
      backend_->Linear({.x = x,
                        .w = w.get(),
                        .epilogue = Epilogue::kResidual,
                        .products = Products::kExact,
                        .residual = y,
                        .y = y});
      std::vector<double> magnitude;
      const auto sums = ReferenceSums(x, parts, Products::kExact, &magnitude);
      size_t rounded_alike = 0;
      for (size_t i = 0; i < sums.size(); ++i) {
        const auto at = static_cast<int64_t>(i);
        const double inner = Border(sums[i], border);
        const double slack = border == DType::kBF16 ? kBf16Epsilon * std::abs(inner) : 0.0;
        ExpectClose(y, at, ValueAt(residual, at) + inner,
                    magnitude[i] + std::abs(ValueAt(residual, at)) + slack / kF32Epsilon / 25,
                    sizes.k);
        rounded_alike += ValueAt(y, at) == Border(ValueAt(residual, at) + inner, border) ? 1 : 0;
      }
      // Only where the FP32 sum lies next to a border of BF16 may a rounding part from double's;
      // with one rounding a fifth of the values would.
      if (border == DType::kBF16) {
        EXPECT_GT(static_cast<double>(rounded_alike), 0.99 * static_cast<double>(sums.size()));
      }
    }
  }
}

TEST_P(CpuLinearTest, SiluMulFromTheFp32Sums) {
  for (const int64_t tokens : {1, 2, 7, 150}) {
    for (const int64_t half : {16, 33, 96}) {
      const Sizes sizes{tokens, 192, {half, half}};
      const auto parts = RandomParts(sizes, DType::kU8, true, rng_);
      const ActTensor x = RandomCodes(DType::kE4M3, tokens, sizes.k, rng_);
      const auto w = backend_->Prepare({parts, true});
      const Tensor y = Poisoned(DType::kBF16, {tokens, half});
      backend_->Linear({.x = x, .w = w.get(), .epilogue = Epilogue::kSiluMul, .y = y});
      std::vector<double> magnitude;
      const auto sums =
          ReferenceSums(x, parts, ResolveProducts(Products::kServed, tokens), &magnitude);
      for (int64_t i = 0; i < tokens * half; ++i) {
        const auto at = static_cast<size_t>(i / half * 2 * half + i % half);
        const double gate = sums[at];
        const double up = sums[at + static_cast<size_t>(half)];
        const double silu = gate / (1.0 + std::exp(-gate));
        // silu's slope is at most 1.1.
        const double size = 1.1 * magnitude[at] * std::abs(up) +
                            std::abs(silu) * magnitude[at + static_cast<size_t>(half)] +
                            32 * std::abs(silu * up);
        ExpectClose(y, i, silu * up, size, sizes.k);
      }
    }
  }
}

TEST_P(CpuLinearTest, NanPoisonsItsRowOnly) {
  for (const int64_t tokens : {3, 20}) {
    const Sizes sizes{tokens, 128, {70}};
    const auto parts = RandomParts(sizes, DType::kU8, false, rng_);
    const ActTensor x = RandomCodes(DType::kE4M3, tokens, sizes.k, rng_);
    x.values.as<uint8_t>()[sizes.k + 5] = 0x7F;
    const auto w = backend_->Prepare({parts, false});
    const Tensor y = Poisoned(DType::kBF16, {tokens, 70});
    backend_->Linear({.x = x, .w = w.get(), .y = y});
    for (int64_t i = 0; i < y.num_elements(); ++i) {
      EXPECT_EQ(std::isnan(ValueAt(y, i)), i / 70 == 1) << i;
    }
  }
}

// Integer kernels: the sums that come nearest to the ends of their 16 and 32 bits.
TEST_P(CpuLinearTest, ExtremeCodesAreExact) {
  for (const uint8_t x_code : {0x01, 0x81, 0x7E, 0xFE, 0x0F, 0x8F}) {
    for (const uint8_t byte : {0xFF, 0x00}) {
      for (const uint8_t zero : {0, 15}) {
        ActTensor x = RandomCodes(DType::kE4M3, 1, 256, rng_);
        std::memset(x.values.data(), x_code, 256);
        LinearPart part{"w", {}, RandomWeightI4(5, 256, 1.0f, rng_), {}};
        std::memset(part.i4.codes.data(), byte, static_cast<size_t>(part.i4.codes.size_bytes()));
        std::memset(part.i4.zero.data(), zero, static_cast<size_t>(part.i4.zero.size_bytes()));
        const auto w = backend_->Prepare({{part}, false});
        const Tensor y = Poisoned(DType::kF32, {1, 5});
        backend_->Linear({.x = x, .w = w.get(), .products = Products::kExact, .y = y});
        std::vector<double> magnitude;
        const auto sums = ReferenceSums(x, {part}, Products::kExact, &magnitude);
        for (int64_t i = 0; i < 5; ++i) {
          const auto at = static_cast<size_t>(i);
          // Equal terms round to the same side: an error for each of 128 in a row.
          ExpectClose(y, i, sums[at], magnitude[at], 128 * 128);
        }
      }
    }
  }
}

TEST_P(CpuLinearTest, BitIdenticalForAnyNumberOfThreads) {
  for (const int64_t tokens : {1, 6, 300}) {
    const Sizes sizes{tokens, 1216, {200, 72}};
    const auto parts = RandomParts(sizes, DType::kU8, true, rng_);
    const ActTensor x = RandomCodes(DType::kE4M3, tokens, sizes.k, rng_);
    Tensor first;
    for (const int threads : {1, 2, 3, 5}) {
      const auto backend = testing::MakeBackend(threads, GetParam());
      const auto w = backend->Prepare({parts, false});
      const Tensor y = Poisoned(DType::kF32, {tokens, w->n()});
      backend->Linear({.x = x, .w = w.get(), .y = y});
      if (!first.defined()) first = y;
      EXPECT_EQ(std::memcmp(first.data(), y.data(), static_cast<size_t>(y.size_bytes())), 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, CpuLinearTest, ::testing::ValuesIn(testing::KernelSets()),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace fireq
