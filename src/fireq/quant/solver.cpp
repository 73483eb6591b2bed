#include "fireq/quant/solver.h"

#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "fireq/quant/blas.h"
#include "fireq/quant/grid.h"
#include "fireq/quant/moments.h"

namespace fireq::quant {
namespace {

constexpr int64_t kRows = 64;   // rows of W that a thread works on side by side
constexpr int64_t kBlock = 64;  // columns whose feedback is applied at once

template <ErrorProducts P>
inline float Value(float code, float scale, float zero) {
  const float exact = (code - zero) * scale;
  if constexpr (P == ErrorProducts::kExact) return exact;
  const float table = RoundToE4M3Branchless(exact);
  if constexpr (P == ErrorProducts::kTable) return table;
  return 0.5f * (exact + table);
}

// For kMean: what the two products' distance from their mean adds to the mean squared error.
template <ErrorProducts P>
inline float Spread(float code, float scale, float zero) {
  if constexpr (P != ErrorProducts::kMean) return 0.0f;
  const float exact = (code - zero) * scale;
  const float half = 0.5f * (exact - RoundToE4M3Branchless(exact));
  return half * half;
}

// Table products are not evenly spaced, so the nearest may belong to a neighbour of w / scale.
template <ErrorProducts P>
inline ValuedCode Nearest(float w, float scale, float zero) {
  const float ratio = std::min(std::max(w / scale, -64.0f), 64.0f);
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: rounds to an integer
  const float middle = std::min(std::max((ratio + kMagic) - kMagic + zero, 0.0f), 15.0f);
  const float value = Value<P>(middle, scale, zero);
  if constexpr (P == ErrorProducts::kExact) return {middle, value};
  const float below = std::max(middle - 1.0f, 0.0f), above = std::min(middle + 1.0f, 15.0f);
  const float value_below = Value<P>(below, scale, zero);
  const float value_above = Value<P>(above, scale, zero);
  const float error = std::fabs(value - w);
  const float error_below = std::fabs(value_below - w), error_above = std::fabs(value_above - w);
  // Selections instead of branches, so that loops over rows vectorise.
  const bool lower = error_below < error;
  const bool higher = error_above < (lower ? error_below : error);
  return {higher ? above : (lower ? below : middle),
          higher ? value_above : (lower ? value_below : value)};
}

// The stored scale `steps` E4M3 values further from zero; the outermost stay.
float NeighbourScale(float scale, int steps) {
  const e4m3_t code = FloatToE4M3(scale);
  const int magnitude = std::clamp((code & 0x7F) + steps, 1, 0x7E);
  return E4M3ToFloat(static_cast<e4m3_t>((code & 0x80) | magnitude));
}

// Up to kRows rows of W, transposed and in the plan's order, so that one column's entries of all
// rows lie side by side.
template <ErrorProducts P>
class RowBlock {
 public:
  RowBlock(const Matrix<float>& w, const SolverPlan& plan, int64_t first, WeightI4& out)
      : plan_(plan),
        out_(out),
        first_(first),
        rows_(std::min(kRows, w.rows - first)),
        k_(w.cols),
        target_(k_, kRows),
        work_(k_, kRows),
        value_(k_, kRows),
        code_(k_, kRows),
        scale_(WeightI4Layout{w.rows, k_}.groups(), kRows),
        zero_(scale_.rows, kRows) {
    std::fill(scale_.data.begin(), scale_.data.end(), 1.0f);
    const int64_t groups = scale_.rows;
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t i = 0; i < k_; ++i)
        target_.at(i, r) = w.at(first + r, plan.order[static_cast<size_t>(i)]) * out.t;
      for (int64_t g = 0; g < groups; ++g) {
        scale_.at(g, r) = E4M3ToFloat(out.scale.as<e4m3_t>()[(first + r) * groups + g]);
        zero_.at(g, r) = out.zero.as<uint8_t>()[(first + r) * groups + g];
      }
    }
  }

  // Error-compensated rounding of all columns in order.
  void Round() {
    work_ = target_;  // w_k + feedback so far
    Matrix<float> residual(kBlock, kRows);
    for (int64_t begin = 0; begin < k_; begin += kBlock) {
      const int64_t end = std::min(begin + kBlock, k_);
      for (int64_t i = begin; i < end; ++i) {
        RoundColumn(i, work_.row(i));
        float* left = residual.row(i - begin);
        for (int64_t r = 0; r < kRows; ++r) left[r] = target_.at(i, r) - value_.at(i, r);
        for (int64_t j = i + 1; j < end; ++j)
          AddScaled(plan_.feedback.at(i, j), left, work_.row(j));
      }
      Propagate(plan_.feedback, begin, end, end, k_, residual, work_);
    }
  }

  // Each group's scale in turn to the neighbouring E4M3 value that lowers the error most, codes
  // staying what they are.
  void RefitScales() {
    ComputeGradient();
    std::vector<std::vector<int64_t>> members(static_cast<size_t>(scale_.rows));
    for (int64_t i = 0; i < k_; ++i)
      members[static_cast<size_t>(plan_.order[static_cast<size_t>(i)] / kGroup)].push_back(i);
    for (int64_t group = 0; group < scale_.rows; ++group)
      RefitGroup(group, members[static_cast<size_t>(group)]);
  }

  // One round of coordinate descent: every code in turn to the best value given all others.
  void Sweep() {
    ComputeGradient();
    Matrix<float>& gradient = work_;
    Matrix<float> step(kBlock, kRows);
    std::vector<float> wanted(kRows);
    for (int64_t begin = 0; begin < k_; begin += kBlock) {
      const int64_t end = std::min(begin + kBlock, k_);
      for (int64_t i = begin; i < end; ++i) {
        const float inverse = 1.0f / plan_.hessian.at(i, i);
        float* delta = step.row(i - begin);
        for (int64_t r = 0; r < kRows; ++r) {
          delta[r] = value_.at(i, r);
          wanted[static_cast<size_t>(r)] = value_.at(i, r) - gradient.at(i, r) * inverse;
        }
        RoundColumn(i, wanted.data());
        for (int64_t r = 0; r < kRows; ++r) delta[r] = value_.at(i, r) - delta[r];
        for (int64_t j = i + 1; j < end; ++j)
          AddScaled(plan_.hessian.at(i, j), delta, gradient.row(j));
      }
      Propagate(plan_.hessian, begin, end, end, k_, step, gradient);
    }
  }

  void Store() const {
    const WeightI4Layout layout{out_.n, out_.k};
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t g = 0; g < scale_.rows; ++g)
        out_.scale.as<e4m3_t>()[(first_ + r) * scale_.rows + g] = FloatToE4M3(scale_.at(g, r));
      uint8_t* packed = out_.codes.as<uint8_t>() + (first_ + r) * layout.code_bytes_per_row();
      for (int64_t i = 0; i < k_; ++i) {
        const int64_t k = plan_.order[static_cast<size_t>(i)];
        const auto code = static_cast<uint8_t>(code_.at(i, r));
        packed[k / 2] = static_cast<uint8_t>(packed[k / 2] | (k % 2 ? code << 4 : code));
      }
    }
  }

 private:
  static void AddScaled(float factor, const float* x, float* y) {
    for (int64_t r = 0; r < kRows; ++r) y[r] += factor * x[r];
  }

  // y[from..to) += coupling[begin..end, from..to)^T x
  static void Propagate(const Matrix<float>& coupling, int64_t begin, int64_t end, int64_t from,
                        int64_t to, const Matrix<float>& x, Matrix<float>& y) {
    if (from >= to) return;
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, static_cast<int>(to - from), kRows,
                static_cast<int>(end - begin), 1.0f, coupling.row(begin) + from,
                static_cast<int>(coupling.cols), x.data.data(), kRows, 1.0f, y.row(from), kRows);
  }

  // work_ <- H (w_hat - w), half the gradient of the error by each column of the row.
  void ComputeGradient() {
    Matrix<float> difference(k_, kRows);
    for (size_t i = 0; i < difference.data.size(); ++i)
      difference.data[i] = value_.data[i] - target_.data[i];
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<int>(k_), kRows,
                static_cast<int>(k_), 1.0f, plan_.hessian.data.data(), static_cast<int>(k_),
                difference.data.data(), kRows, 0.0f, work_.data.data(), kRows);
  }

  void RefitGroup(int64_t group, const std::vector<int64_t>& members) {
    const int64_t count = std::ssize(members);
    Matrix<float> coupling(count, k_), local(count, count);  // H's rows of the group; its block
    for (int64_t i = 0; i < count; ++i) {
      const float* row = plan_.hessian.row(members[static_cast<size_t>(i)]);
      std::copy_n(row, k_, coupling.row(i));
      for (int64_t j = 0; j < count; ++j) local.at(i, j) = row[members[static_cast<size_t>(j)]];
    }
    Matrix<float> best_step(count, kRows), step(count, kRows), product(count, kRows);
    std::vector<float> best_change(kRows, 0.0f),
        best_scale(scale_.row(group), scale_.row(group) + kRows);
    for (const int neighbour : {-2, -1, 1, 2}) {
      std::vector<float> scale(kRows), change(kRows, 0.0f);
      for (int64_t r = 0; r < kRows; ++r)
        scale[static_cast<size_t>(r)] = NeighbourScale(scale_.at(group, r), neighbour);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t column = members[static_cast<size_t>(i)];
        for (int64_t r = 0; r < kRows; ++r)
          step.at(i, r) =
              Value<P>(code_.at(column, r), scale[static_cast<size_t>(r)], zero_.at(group, r)) -
              value_.at(column, r);
      }
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<int>(count), kRows,
                  static_cast<int>(count), 1.0f, local.data.data(), static_cast<int>(count),
                  step.data.data(), kRows, 0.0f, product.data.data(), kRows);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t column = members[static_cast<size_t>(i)];
        const float* gradient = work_.row(column);
        for (int64_t r = 0; r < kRows; ++r) {
          const size_t at = static_cast<size_t>(r);
          const float code = code_.at(column, r), zero = zero_.at(group, r);
          change[at] += step.at(i, r) * (2.0f * gradient[r] + product.at(i, r)) +
                        local.at(i, i) * (Spread<P>(code, scale[at], zero) -
                                          Spread<P>(code, scale_.at(group, r), zero));
        }
      }
      for (int64_t r = 0; r < kRows; ++r) {
        const size_t at = static_cast<size_t>(r);
        if (!(change[at] < best_change[at])) continue;
        best_change[at] = change[at];
        best_scale[at] = scale[at];
        for (int64_t i = 0; i < count; ++i) best_step.at(i, r) = step.at(i, r);
      }
    }
    std::copy(best_scale.begin(), best_scale.end(), scale_.row(group));
    for (int64_t i = 0; i < count; ++i) {
      float* value = value_.row(members[static_cast<size_t>(i)]);
      for (int64_t r = 0; r < kRows; ++r) value[r] += best_step.at(i, r);
    }
    Propagate(coupling, 0, count, 0, k_, best_step, work_);
  }

  void RoundColumn(int64_t i, const float* wanted) {
    const int64_t group = plan_.order[static_cast<size_t>(i)] / kGroup;
    const float* scale = scale_.row(group);
    const float* zero = zero_.row(group);
    float* code = code_.row(i);
    float* value = value_.row(i);
    for (int64_t r = 0; r < kRows; ++r) {
      const ValuedCode nearest = Nearest<P>(wanted[r], scale[r], zero[r]);
      code[r] = nearest.code;
      value[r] = nearest.value;
    }
  }

  const SolverPlan& plan_;
  WeightI4& out_;
  int64_t first_, rows_, k_;
  Matrix<float> target_, work_, value_, code_;  // [K, kRows]; rows past the last are zero
  Matrix<float> scale_, zero_;                  // [groups, kRows]
};

template <ErrorProducts P>
void Solve(const Matrix<float>& w, const SolverPlan& plan, int64_t sweeps, ThreadPool& pool,
           WeightI4& out) {
  const SingleThreadBlas blas;
  pool.ParallelFor(CeilDiv(w.rows, kRows), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t block = begin; block < end; ++block) {
      RowBlock<P> rows(w, plan, block * kRows, out);
      rows.Round();
      for (int64_t sweep = 0; sweep < sweeps; ++sweep) {
        rows.RefitScales();
        rows.Sweep();
      }
      rows.Store();
    }
  });
}

}  // namespace

ValuedCode NearestProduct(float w, float scale, float zero, ErrorProducts products) {
  switch (products) {
    case ErrorProducts::kTable:
      return Nearest<ErrorProducts::kTable>(w, scale, zero);
    case ErrorProducts::kExact:
      return Nearest<ErrorProducts::kExact>(w, scale, zero);
    case ErrorProducts::kMean:
      break;
  }
  return Nearest<ErrorProducts::kMean>(w, scale, zero);
}

SolverPlan MakeSolverPlan(const Matrix<float>& damped, const std::string& name) {
  const int64_t k = damped.rows;
  SolverPlan plan;
  plan.order.resize(static_cast<size_t>(k));
  std::iota(plan.order.begin(), plan.order.end(), 0);
  std::stable_sort(plan.order.begin(), plan.order.end(),
                   [&](int64_t a, int64_t b) { return damped.at(a, a) > damped.at(b, b); });
  plan.hessian = Matrix<float>(k, k);
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < k; ++j)
      plan.hessian.at(i, j) =
          damped.at(plan.order[static_cast<size_t>(i)], plan.order[static_cast<size_t>(j)]);
  plan.feedback = FeedbackWeights(plan.hessian, name);
  return plan;
}

void SolveCodes(const Matrix<float>& w, const SolverPlan& plan, ErrorProducts products,
                int64_t sweeps, ThreadPool& pool, WeightI4& out) {
  FIREQ_CHECK(out.n == w.rows && out.k == w.cols && plan.hessian.rows == w.cols, kShapeMismatch,
              "codes of [", w.rows, ", ", w.cols, "] with a Hessian of ", plan.hessian.rows);
  switch (products) {
    case ErrorProducts::kTable:
      return Solve<ErrorProducts::kTable>(w, plan, sweeps, pool, out);
    case ErrorProducts::kExact:
      return Solve<ErrorProducts::kExact>(w, plan, sweeps, pool, out);
    case ErrorProducts::kMean:
      return Solve<ErrorProducts::kMean>(w, plan, sweeps, pool, out);
  }
}

}  // namespace fireq::quant
