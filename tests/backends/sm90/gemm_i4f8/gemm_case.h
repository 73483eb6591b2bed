// Random or adversarial GEMM problems with a double-precision reference of the served arithmetic.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

#include "fireq/formats/act_e4m3.h"
#include "fireq/formats/bf16.h"
#include "fireq/formats/f16.h"
#include "fireq/formats/weight_i4_tile.h"

namespace fireq::sm90 {

enum class Data : uint8_t { kRandom, kSymmetric, kOutlierScales, kExtremes, kZeroRows };

struct GemmCase {
  int64_t m, n, k;
  bool gate_up;
  std::vector<uint8_t> codes, scales, zeros;  // packed rows' logical order: parts stacked
  std::vector<float> t;                       // one a part
  std::vector<uint8_t> x;                     // E4M3 [m, k]
  std::vector<float> x_scales, x_sums, bias;  // bias in packed order
  std::vector<uint8_t> tiles;
  std::vector<float> row_scales;
  std::vector<uint16_t> residual;  // BF16 [m, n]

  int64_t groups() const { return CeilDiv<int64_t>(k, kGroup); }

  GemmCase(int64_t tokens, int64_t rows, int64_t columns, bool interleaved, Data data,
           uint32_t seed)
      : m(tokens), n(rows), k(columns), gate_up(interleaved) {
    std::mt19937 rng(seed);
    MakeWeight(rng, data);
    MakeTokens(rng, data);
    std::normal_distribution<float> normal;
    bias.resize(static_cast<size_t>(n));
    for (float& b : bias) b = normal(rng);
    residual.resize(static_cast<size_t>(m * n));
    for (auto& r : residual) r = FloatToBf16(4.0f * normal(rng));
  }

  void MakeWeight(std::mt19937& rng, Data data) {
    codes.resize(static_cast<size_t>(n * k / 2));
    for (auto& c : codes) c = static_cast<uint8_t>(rng());
    scales.resize(static_cast<size_t>(n * groups()));
    zeros.resize(scales.size());
    for (size_t i = 0; i < scales.size(); ++i) {
      const int exponent = data == Data::kOutlierScales ? static_cast<int>(rng() % 15)
                                                        : 4 + static_cast<int>(rng() % 3);
      int code = exponent * 8 + static_cast<int>(rng() % 7) + (exponent == 0 ? 1 : 0);
      if (data == Data::kExtremes) code = rng() % 2 ? 0x7E : 0x01;
      if (data != Data::kSymmetric && rng() % 2) code |= 0x80;
      scales[i] = static_cast<uint8_t>(code);
      zeros[i] = static_cast<uint8_t>(data == Data::kSymmetric ? 8 : rng() % 16);
    }
    t = gate_up ? std::vector<float>{4.0f, 16.0f} : std::vector<float>{8.0f};
    const std::vector<WeightI4Part> parts = Parts();
    const RowOrder order = gate_up ? RowOrder::kGateUp : RowOrder::kStacked;
    const WeightTileLayout layout = TileLayoutOf(parts, k, order);
    tiles.resize(static_cast<size_t>(layout.size_bytes()));
    row_scales.resize(static_cast<size_t>(n));
    PackWeightTiles(parts, k, order, 0, layout.row_blocks(), tiles.data(), row_scales.data());
  }

  std::vector<WeightI4Part> Parts() const {
    std::vector<WeightI4Part> parts;
    const int64_t rows = n / static_cast<int64_t>(t.size());
    for (size_t i = 0; i < t.size(); ++i) {
      const int64_t first = static_cast<int64_t>(i) * rows;
      parts.push_back({rows, codes.data() + first * k / 2, scales.data() + first * groups(),
                       zeros.data() + first * groups(), t[i]});
    }
    return parts;
  }

  void MakeTokens(std::mt19937& rng, Data data) {
    std::normal_distribution<float> normal;
    x.resize(static_cast<size_t>(m * k));
    x_scales.resize(static_cast<size_t>(m));
    // Outputs of a size that FP16 holds.
    const float unit = data == Data::kExtremes        ? 1e-7f
                       : data == Data::kOutlierScales ? 1e-6f
                                                      : 1e-4f;
    for (int64_t i = 0; i < m; ++i) {
      x_scales[static_cast<size_t>(i)] = unit * (1.0f + static_cast<float>(rng() % 100));
      for (int64_t j = 0; j < k; ++j) {
        float v = 100.0f * normal(rng);
        if (data == Data::kExtremes) v = rng() % 2 ? 448.0f : -448.0f;
        if (data == Data::kZeroRows && i % 3 == 1) v = 0.0f;
        x[static_cast<size_t>(i * k + j)] = FloatToE4M3(v);
      }
    }
    SumTokens();
  }
  void SumTokens() {
    x_sums.assign(static_cast<size_t>(m * groups()), 0.0f);
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < k; ++j)
        x_sums[static_cast<size_t>(i * groups() + j / kGroup)] +=
            E4M3ToFloat(x[static_cast<size_t>(i * k + j)]);
  }

  // Packed row -> row of the stacked parts.
  int64_t LogicalRow(int64_t packed) const {
    if (!gate_up) return packed;
    return packed / 16 * 8 + packed % 8 + (packed % 16 < 8 ? 0 : n / 2);
  }

  // Sums [m, n] in packed order, scaled and biased, in double.
  std::vector<double> Reference(bool table, bool with_bias) const {
    std::vector<double> y(static_cast<size_t>(m * n));
    const auto rows = [&](int64_t begin, int64_t end) {
      std::vector<double> w(static_cast<size_t>(k));
      for (int64_t packed = begin; packed < end; ++packed) {
        const int64_t row = LogicalRow(packed);
        for (int64_t j = 0; j < k; ++j) {
          const size_t at = static_cast<size_t>(row * groups() + j / kGroup);
          const int code = CodeAt(codes.data() + row * k / 2, j);
          const float s = E4M3ToFloat(scales[at]);
          w[static_cast<size_t>(j)] =
              table ? TableProduct(code, zeros[at], s) : ExactProduct(code, zeros[at], s);
        }
        for (int64_t i = 0; i < m; ++i) {
          double sum = 0.0;
          for (int64_t j = 0; j < k; ++j)
            sum += w[static_cast<size_t>(j)] * values_[x[static_cast<size_t>(i * k + j)]];
          sum *= static_cast<double>(x_scales[static_cast<size_t>(i)]) *
                 row_scales[static_cast<size_t>(packed)];
          y[static_cast<size_t>(i * n + packed)] =
              sum + (with_bias ? bias[static_cast<size_t>(packed)] : 0.0);
        }
      }
    };
    const int64_t threads = std::max(1u, std::thread::hardware_concurrency());
    std::vector<std::jthread> pool;
    for (int64_t i = 0; i < threads; ++i)
      pool.emplace_back(rows, n * i / threads, n * (i + 1) / threads);
    pool.clear();
    return y;
  }

 private:
  std::vector<double> values_ = [] {
    std::vector<double> v;
    for (int i = 0; i < 256; ++i) v.push_back(E4M3ToFloat(static_cast<uint8_t>(i)));
    return v;
  }();
};

inline double RelativeError(const std::vector<double>& got, const std::vector<double>& want) {
  double error = 0.0, norm = 0.0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::isnan(got[i]) != std::isnan(want[i])) return NAN;
    if (std::isnan(want[i])) continue;
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::sqrt(error / (norm + 1e-300));
}

}  // namespace fireq::sm90
