#include "fireq/quant/grid.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "fireq/formats/rounding.h"
#include "fireq/formats/weight_i4.h"
#include "fireq/quant/grid_errors.h"

namespace fireq::quant {
namespace {

// A scale as stored: E4M3, never below its smallest subnormal in magnitude.
float StoredScale(float scale) {
  const float rounded = RoundToE4M3(scale);
  if (std::fabs(rounded) >= kE4M3MinSubnormal) return rounded;
  return std::signbit(scale) ? -kE4M3MinSubnormal : kE4M3MinSubnormal;
}

struct Range {
  float lo = 0.0f, hi = 0.0f;  // with zero included
  float extreme = 0.0f;        // the first element of largest magnitude
};

Range RangeOf(std::span<const float> w) {
  Range range;
  for (const float x : w) {
    range.lo = std::min(range.lo, x);
    range.hi = std::max(range.hi, x);
    if (std::fabs(x) > std::fabs(range.extreme)) range.extreme = x;
  }
  return range;
}

// Several clip factors round to one E4M3 scale; a repeat can never be the first minimum.
void Push(std::vector<GroupGrid>& out, float scale, int zero) {
  for (const GroupGrid& known : out)
    if (known.scale == scale && known.zero == zero) return;
  out.push_back({scale, zero});
}

inline float CodeMinusZero(float w, float scale, float zero) {
  // |w / scale| is clamped first: the magic number rounds |x| < 2^22 only.
  const float ratio = std::min(std::max(w / scale, -64.0f), 64.0f);
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23, as in formats/rounding.h
  const float code = (ratio + kMagic) - kMagic + zero;
  return std::min(std::max(code, 0.0f), 15.0f) - zero;
}

int64_t GroupEnd(int64_t group, int64_t k) { return std::min<int64_t>((group + 1) * kGroup, k); }

}  // namespace

std::vector<GroupGrid> GroupCandidates(std::span<const float> w, const GridSpec& spec) {
  FIREQ_CHECK(spec.grid != WeightGrid::kNone && spec.grid != WeightGrid::kProgressive, kInternal,
              "no grid to search");
  const Range range = RangeOf(w);
  const float absmax = std::fabs(range.extreme);
  std::vector<GroupGrid> out;
  out.reserve(kMaxCandidates);
  for (int step = 0; step < (spec.search ? kClipSteps : 1); ++step) {
    const float f = ClipFactor(step);
    switch (spec.grid) {
      case WeightGrid::kSigned:
        Push(out, StoredScale(-range.extreme / 8.0f * f), kSymmetricZero);
        [[fallthrough]];
      case WeightGrid::kRtn:
        Push(out, StoredScale(absmax / 7.0f * f), kSymmetricZero);
        break;
      case WeightGrid::kAsymmetric: {
        const float lo = range.lo * f, hi = range.hi * f;
        const float scale = StoredScale((hi - lo) / 15.0f);
        const float zero = std::clamp(RoundHalfEven(-lo / scale), 0.0f, 15.0f);
        Push(out, scale, static_cast<int>(zero));
        break;
      }
      case WeightGrid::kNone:
      case WeightGrid::kProgressive:
        break;
    }
  }
  return out;
}

size_t BestCandidate(std::span<const float> w, std::span<const float> h,
                     std::span<const GroupGrid> candidates, ErrorProducts products) {
  if (candidates.size() <= 1) return 0;
  FIREQ_CHECK(candidates.size() <= kMaxCandidates, kInternal, candidates.size(), " candidates");
  CandidateErrors errors;
  errors.padded = AlignUp<size_t>(candidates.size(), 16);
  for (size_t c = 0; c < errors.padded; ++c) {
    const GroupGrid& grid = candidates[std::min(c, candidates.size() - 1)];
    errors.scale[c] = grid.scale;
    errors.zero[c] = static_cast<float>(grid.zero);
  }
  AddErrors(w, h, products, errors);
  return static_cast<size_t>(
      std::min_element(errors.error.begin(),
                       errors.error.begin() + static_cast<std::ptrdiff_t>(candidates.size())) -
      errors.error.begin());
}

uint8_t NearestCode(float w, GroupGrid grid) {
  const float zero = static_cast<float>(grid.zero);
  return static_cast<uint8_t>(CodeMinusZero(w, grid.scale, zero) + zero);
}

float ChooseTensorScale(const Matrix<float>& w, ThreadPool& pool) {
  constexpr double kLeast = 7.0 * 0x1p-9;  // a group's largest weight whose scale is 2^-9
  const int64_t groups = CeilDiv<int64_t>(w.cols, kGroup);
  std::vector<float> maxima(static_cast<size_t>(w.rows * groups));
  pool.ParallelFor(w.rows, 16, [&](int64_t first, int64_t last, int) {
    for (int64_t n = first; n < last; ++n) {
      for (int64_t g = 0; g < groups; ++g) {
        float absmax = 0.0f;
        for (int64_t k = g * kGroup; k < GroupEnd(g, w.cols); ++k)
          absmax = std::max(absmax, std::fabs(w.at(n, k)));
        maxima[static_cast<size_t>(n * groups + g)] = absmax;
      }
    }
  });
  float largest = 0.0f;
  for (const float absmax : maxima) largest = std::max(largest, absmax);
  double best_slack = 0.0;
  float best = 1.0f;
  for (int i = 0; i <= 14; ++i) {
    const float t = std::ldexp(1.0f, i);
    if (i > 0 && largest * t > kE4M3Max) break;
    double slack = 0.0;
    for (const float absmax : maxima)
      slack += std::max(0.0, (kLeast - double{absmax} * t) / kLeast);
    if (i == 0 || slack < best_slack) {
      best_slack = slack;
      best = t;
    }
    if (slack == 0.0) break;
  }
  return best;
}

WeightI4 MakeWeightI4(int64_t n, int64_t k, float t) {
  const WeightI4Layout layout{n, k};
  WeightI4 out;
  out.n = n;
  out.k = k;
  out.t = t;
  out.codes = Tensor::Zeros(DType::kU8, {n, layout.code_bytes_per_row()});
  out.scale = Tensor::Zeros(DType::kE4M3, {n, layout.groups()});
  out.zero = Tensor::Zeros(DType::kU8, {n, layout.groups()});
  return out;
}

void SearchScales(const Matrix<float>& w, std::span<const float> h, const GridSpec& spec,
                  ThreadPool& pool, WeightI4& out) {
  FIREQ_CHECK(out.n == w.rows && out.k == w.cols && std::ssize(h) == w.cols, kShapeMismatch,
              "search of [", w.rows, ", ", w.cols, "] with ", h.size(), " channel weights");
  const int64_t groups = CeilDiv<int64_t>(w.cols, kGroup);
  pool.ParallelFor(w.rows, 8, [&](int64_t begin, int64_t end, int) {
    std::array<float, kGroup> scaled;
    for (int64_t n = begin; n < end; ++n) {
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t first = g * kGroup;
        const size_t count = static_cast<size_t>(GroupEnd(g, w.cols) - first);
        for (size_t i = 0; i < count; ++i)
          scaled[i] = w.row(n)[first + static_cast<int64_t>(i)] * out.t;
        const std::span<const float> group(scaled.data(), count);
        const std::vector<GroupGrid> candidates = GroupCandidates(group, spec);
        const GroupGrid& best = candidates[BestCandidate(
            group, h.subspan(static_cast<size_t>(first), count), candidates, spec.products)];
        out.scale.as<e4m3_t>()[n * groups + g] = FloatToE4M3(best.scale);
        out.zero.as<uint8_t>()[n * groups + g] = static_cast<uint8_t>(best.zero);
      }
    }
  });
}

void RoundToNearest(const Matrix<float>& w, ThreadPool& pool, WeightI4& out) {
  const WeightI4Layout layout{w.rows, w.cols};
  pool.ParallelFor(w.rows, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t n = begin; n < end; ++n) {
      uint8_t* packed = out.codes.as<uint8_t>() + n * layout.code_bytes_per_row();
      for (int64_t k = 0; k < w.cols; k += 2) {
        const int64_t group = n * layout.groups() + k / kGroup;
        const GroupGrid grid{E4M3ToFloat(out.scale.as<e4m3_t>()[group]),
                             out.zero.as<uint8_t>()[group]};
        const uint8_t even = NearestCode(w.at(n, k) * out.t, grid);
        const uint8_t odd = k + 1 < w.cols ? NearestCode(w.at(n, k + 1) * out.t, grid) : 0;
        packed[k / 2] = PackCodes(even, odd);
      }
    }
  });
}

void DequantizeRow(const WeightI4& weight, int64_t row, Products products, float* out) {
  const WeightI4Layout layout{weight.n, weight.k};
  const uint8_t* codes = weight.codes.as<uint8_t>() + row * layout.code_bytes_per_row();
  for (int64_t k = 0; k < weight.k; ++k) {
    const int64_t group = row * layout.groups() + k / kGroup;
    const float scale = E4M3ToFloat(weight.scale.as<e4m3_t>()[group]);
    const int zero = weight.zero.as<uint8_t>()[group];
    const int code = CodeAt(codes, k);
    out[k] = (products == Products::kTable ? TableProduct(code, zero, scale)
                                           : ExactProduct(code, zero, scale)) /
             weight.t;
  }
}

}  // namespace fireq::quant
