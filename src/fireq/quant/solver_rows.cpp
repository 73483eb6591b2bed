// Compiled once for every vector width that Highway knows: loops over the rows of a block are plain
// and left to the compiler, which has the target's instructions here; sums are Highway's.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fireq/quant/solver_rows.cpp"
#include "fireq/quant/solver_rows.h"

#include <algorithm>
#include <array>
#include <span>
#include <vector>

#include "fireq/formats/e4m3.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After foreach_target.h: once a target.
#include "fireq/quant/product_values.h"
#include "fireq/quant/row_sums.h"

HWY_BEFORE_NAMESPACE();
namespace fireq::quant::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

constexpr int64_t kRows = kSolverRows;
static_assert(kRows == kRowWidth);
constexpr int64_t kBlock = 64;  // columns whose feedback is applied at once

using Row = std::array<float, kRows>;
using Lanes = RowLanes;

// f(first lane) for each vector of a row.
template <class F>
HWY_INLINE void ForVectors(const F& f) {
  for (size_t r = 0; r < kRows; r += hn::Lanes(Lanes())) f(r);
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
        zero_(scale_.rows, kRows),
        members_(static_cast<size_t>(scale_.rows)) {
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
    for (int64_t i = 0; i < k_; ++i) {
      hessian_.push_back(plan.hessian.row(i));
      feedback_.push_back(plan.feedback.row(i));
      members_[static_cast<size_t>(GroupOf(i))].push_back(i);
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
        const float* target = target_.row(i);
        const float* value = value_.row(i);
        for (int64_t r = 0; r < kRows; ++r) left[r] = target[r] - value[r];
        AddSums(std::span(&feedback_[static_cast<size_t>(i)], 1), i + 1, end, left, work_);
      }
      AddSums(Rows(feedback_, begin, end), end, k_, residual.row(0), work_);
    }
  }

  // Before RefitScales and Sweep, which keep it: work_ <- H (w_hat - w), half the gradient of the
  // error by each column of the row.
  void ComputeGradient() {
    Matrix<float> difference(k_, kRows);
    for (size_t i = 0; i < difference.data.size(); ++i)
      difference.data[i] = value_.data[i] - target_.data[i];
    std::fill(work_.data.begin(), work_.data.end(), 0.0f);
    AddSums(hessian_, 0, k_, difference.row(0), work_);
  }

  // Each group's scale in turn to the neighbouring E4M3 value that lowers the error most, codes
  // staying what they are.
  void RefitScales() {
    for (int64_t group = 0; group < scale_.rows; ++group)
      RefitGroup(group, members_[static_cast<size_t>(group)]);
  }

  // One round of coordinate descent: every code in turn to the best value given all others. Columns
  // behind it are not looked at again, so their gradients are left behind.
  void Sweep() {
    Matrix<float>& gradient = work_;
    Matrix<float> step(kBlock, kRows);
    Row wanted;
    for (int64_t begin = 0; begin < k_; begin += kBlock) {
      const int64_t end = std::min(begin + kBlock, k_);
      for (int64_t i = begin; i < end; ++i) {
        const float inverse = 1.0f / plan_.hessian.at(i, i);
        float* delta = step.row(i - begin);
        const float* slope = gradient.row(i);
        const float* value = value_.row(i);
        const Lanes d;
        ForVectors([&](size_t r) HWY_ATTR {
          const auto old = hn::LoadU(d, value + r);
          hn::StoreU(old, d, delta + r);
          hn::StoreU(hn::NegMulAdd(hn::LoadU(d, slope + r), hn::Set(d, inverse), old), d,
                     &wanted[r]);
        });
        RoundColumn(i, wanted.data());
        ForVectors([&](size_t r) HWY_ATTR {
          hn::StoreU(hn::Sub(hn::LoadU(d, value + r), hn::LoadU(d, delta + r)), d, delta + r);
        });
        AddSums(std::span(&hessian_[static_cast<size_t>(i)], 1), i + 1, end, delta, gradient);
      }
      AddSums(Rows(hessian_, begin, end), end, k_, step.row(0), gradient);
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
  using Factors = std::vector<const float*>;

  static std::span<const float* const> Rows(const Factors& all, int64_t begin, int64_t end) {
    return std::span(all).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  }

  int64_t GroupOf(int64_t i) const { return plan_.order[static_cast<size_t>(i)] / kGroup; }

  // What another scale would change: the values of the group's members (`step`) and, summed, the
  // error of each row.
  struct Trial {
    Matrix<float> step;
    Row scale, change;
  };

  void Try(int64_t group, const std::vector<int64_t>& members, int neighbour,
           const Matrix<float>& local, Matrix<float>& product, Trial& out) {
    const float* old = scale_.row(group);
    const float* zero = zero_.row(group);
    const Lanes d;
    for (size_t r = 0; r < kRows; ++r) out.scale[r] = NeighbourScale(old[r], neighbour);
    Factors factors;
    for (size_t i = 0; i < members.size(); ++i) {
      const int64_t row = static_cast<int64_t>(i);
      const float* code = code_.row(members[i]);
      const float* value = value_.row(members[i]);
      float* step = out.step.row(row);
      ForVectors([&](size_t r) HWY_ATTR {
        const auto tried = ProductValue<P>(d, hn::LoadU(d, code + r), hn::LoadU(d, &out.scale[r]),
                                           hn::LoadU(d, zero + r));
        hn::StoreU(hn::Sub(tried, hn::LoadU(d, value + r)), d, step + r);
      });
      factors.push_back(local.row(row));
    }
    std::fill(product.data.begin(), product.data.end(), 0.0f);
    AddSums(factors, 0, local.rows, out.step.row(0), product);
    out.change.fill(0.0f);
    for (size_t i = 0; i < members.size(); ++i) {
      const int64_t row = static_cast<int64_t>(i);
      const float* code = code_.row(members[i]);
      const float* gradient = work_.row(members[i]);
      const float* step = out.step.row(row);
      const float* curved = product.row(row);
      const auto curvature = hn::Set(d, local.at(row, row));
      ForVectors([&](size_t r) HWY_ATTR {
        const auto codes = hn::LoadU(d, code + r), zeros = hn::LoadU(d, zero + r);
        const auto spread = hn::Sub(ProductSpread<P>(d, codes, hn::LoadU(d, &out.scale[r]), zeros),
                                    ProductSpread<P>(d, codes, hn::LoadU(d, old + r), zeros));
        const auto slope =
            hn::MulAdd(hn::Set(d, 2.0f), hn::LoadU(d, gradient + r), hn::LoadU(d, curved + r));
        auto change = hn::MulAdd(hn::LoadU(d, step + r), slope, hn::LoadU(d, &out.change[r]));
        change = hn::MulAdd(curvature, spread, change);
        hn::StoreU(change, d, &out.change[r]);
      });
    }
  }

  void RefitGroup(int64_t group, const std::vector<int64_t>& members) {
    const int64_t count = std::ssize(members);
    Matrix<float> local(count, count);  // H's block of the group
    Factors factors;
    for (int64_t i = 0; i < count; ++i) {
      factors.push_back(hessian_[static_cast<size_t>(members[static_cast<size_t>(i)])]);
      for (int64_t j = 0; j < count; ++j)
        local.at(i, j) = factors.back()[members[static_cast<size_t>(j)]];
    }
    Trial best{Matrix<float>(count, kRows), {}, {}}, trial = best;
    std::copy_n(scale_.row(group), kRows, best.scale.begin());
    best.change.fill(0.0f);
    Matrix<float> product(count, kRows);
    for (const int neighbour : {-2, -1, 1, 2}) {
      Try(group, members, neighbour, local, product, trial);
      ForVectors([&](size_t r) HWY_ATTR {
        const Lanes d;
        const auto change = hn::LoadU(d, &trial.change[r]), least = hn::LoadU(d, &best.change[r]);
        const auto better = hn::Lt(change, least);
        const auto keep = [&](const float* other, float* own) HWY_ATTR {
          hn::StoreU(hn::IfThenElse(better, hn::LoadU(d, other), hn::LoadU(d, own)), d, own);
        };
        for (int64_t i = 0; i < count; ++i) keep(trial.step.row(i) + r, best.step.row(i) + r);
        keep(&trial.scale[r], &best.scale[r]);
        keep(&trial.change[r], &best.change[r]);
      });
    }
    std::copy_n(best.scale.begin(), kRows, scale_.row(group));
    for (int64_t i = 0; i < count; ++i) {
      float* value = value_.row(members[static_cast<size_t>(i)]);
      const float* step = best.step.row(i);
      for (int64_t r = 0; r < kRows; ++r) value[r] += step[r];
    }
    AddSums(factors, 0, k_, best.step.row(0), work_);
  }

  void RoundColumn(int64_t i, const float* wanted) {
    const float* scale = scale_.row(GroupOf(i));
    const float* zero = zero_.row(GroupOf(i));
    float* code = code_.row(i);
    float* value = value_.row(i);
    ForVectors([&](size_t r) HWY_ATTR {
      const Lanes d;
      auto nearest_value = hn::Zero(d);
      const auto nearest = Nearest<P>(d, hn::LoadU(d, wanted + r), hn::LoadU(d, scale + r),
                                      hn::LoadU(d, zero + r), nearest_value);
      hn::StoreU(nearest, d, code + r);
      hn::StoreU(nearest_value, d, value + r);
    });
  }

  const SolverPlan& plan_;
  WeightI4& out_;
  int64_t first_, rows_, k_;
  Matrix<float> target_, work_, value_, code_;  // [K, kRows]; rows past the last are zero
  Matrix<float> scale_, zero_;                  // [groups, kRows]
  Factors hessian_, feedback_;                  // the plan's rows
  std::vector<std::vector<int64_t>> members_;   // of each group: places in the plan's order
};

template <ErrorProducts P>
void Solve(const Matrix<float>& w, const SolverPlan& plan, int64_t sweeps, int64_t first,
           WeightI4& out) {
  RowBlock<P> rows(w, plan, first, out);
  rows.Round();
  for (int64_t sweep = 0; sweep < sweeps; ++sweep) {
    rows.ComputeGradient();
    rows.RefitScales();
    rows.Sweep();
  }
  rows.Store();
}

template <ErrorProducts P>
ValuedCode NearestOf(float w, float scale, float zero) {
  const hn::CappedTag<float, 1> d;
  auto value = hn::Zero(d);
  const auto code = Nearest<P>(d, hn::Set(d, w), hn::Set(d, scale), hn::Set(d, zero), value);
  return {hn::GetLane(code), hn::GetLane(value)};
}

}  // namespace

ValuedCode NearestValue(float w, float scale, float zero, ErrorProducts products) {
  switch (products) {
    case ErrorProducts::kTable:
      return NearestOf<ErrorProducts::kTable>(w, scale, zero);
    case ErrorProducts::kExact:
      return NearestOf<ErrorProducts::kExact>(w, scale, zero);
    case ErrorProducts::kMean:
      break;
  }
  return NearestOf<ErrorProducts::kMean>(w, scale, zero);
}

void Rows(const Matrix<float>& w, const SolverPlan& plan, ErrorProducts products, int64_t sweeps,
          int64_t first, WeightI4& out) {
  switch (products) {
    case ErrorProducts::kTable:
      return Solve<ErrorProducts::kTable>(w, plan, sweeps, first, out);
    case ErrorProducts::kExact:
      return Solve<ErrorProducts::kExact>(w, plan, sweeps, first, out);
    case ErrorProducts::kMean:
      return Solve<ErrorProducts::kMean>(w, plan, sweeps, first, out);
  }
}

}  // namespace fireq::quant::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fireq::quant {
HWY_EXPORT(NearestValue);
HWY_EXPORT(Rows);

ValuedCode NearestProduct(float w, float scale, float zero, ErrorProducts products) {
  return HWY_DYNAMIC_DISPATCH(NearestValue)(w, scale, zero, products);
}

void SolveRows(const Matrix<float>& w, const SolverPlan& plan, ErrorProducts products,
               int64_t sweeps, int64_t first, WeightI4& out) {
  HWY_DYNAMIC_DISPATCH(Rows)(w, plan, products, sweeps, first, out);
}
}  // namespace fireq::quant
#endif
