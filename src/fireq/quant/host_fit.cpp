#include "fireq/quant/host_fit.h"

#include <algorithm>
#include <array>
#include <functional>
#include <optional>

#include "fireq/formats/bf16.h"
#include "fireq/formats/e4m3.h"
#include "fireq/quant/correction.h"
#include "fireq/quant/solver.h"

namespace fireq::quant {
namespace {

constexpr std::array<float, 256> kE4M3Values = [] {
  std::array<float, 256> out{};
  for (size_t code = 0; code < out.size(); ++code)
    out[code] = E4M3ToFloat(static_cast<e4m3_t>(code));
  return out;
}();

class HostFit final : public InputFit {
 public:
  HostFit(Backend& backend, ThreadPool& pool, const FitShape& shape, std::string name)
      : backend_(backend), pool_(pool), shape_(shape), name_(std::move(name)) {
    stats_.moments = InputMoments(shape.k, shape.full);
    if (Matrix<float>* cross = Cross()) *cross = Matrix<float>(shape.k, shape.cross_columns());
  }

  const FitShape& shape() const override { return shape_; }

  void Add(const FitTokens& tokens) override {
    backend_.Synchronize();
    const Tensor x = ToHost(tokens.x);
    Tensor y;
    if (shape_.target == FitTarget::kInput) y = Difference(ToHost(tokens.ahead), x);
    if (shape_.target == FitTarget::kOutput) {
      y = Difference(ToHost(tokens.ahead), ToHost({tokens.behind, {}, {}}));
      if (tokens.bias != nullptr) Subtract(tokens.bias, y);
    }
    stats_.moments.Add(x.as<float>(), x.dim(0), name_, pool_, y.defined() ? y.as<float>() : nullptr,
                       Cross());
  }

  const std::vector<double>& Diagonal() override { return stats_.moments.diagonal(); }

  Matrix<float> WithinGroups() override { return stats_.moments.WithinGroups(); }

  void Correct(double damping, const Matrix<float>& weight, const std::string& name) override {
    correction_ = StudyCorrection(stats_, damping, weight, name, pool_);
  }
  Matrix<float> Corrected(const Matrix<float>& w) override {
    return quant::Corrected(w, correction_, pool_);
  }

  void Factorise(double damping, const std::string& name) override {
    plan_ = MakeSolverPlan(stats_.moments.Damped(damping), name);
  }
  void SolveCodes(const Matrix<float>& w, ErrorProducts products, int64_t sweeps,
                  WeightI4& out) override {
    FIREQ_CHECK(plan_.has_value(), kInternal, name_, ": codes before the factorisation");
    quant::SolveCodes(w, *plan_, products, sweeps, pool_, out);
  }

 private:
  Matrix<float>* Cross() {
    return shape_.target == FitTarget::kNone    ? nullptr
           : shape_.target == FitTarget::kInput ? &stats_.input_gap
                                                : &stats_.output_target;
  }

  // F32 [T, K] on the host.
  Tensor ToHost(const ActTensor& tensor) const {
    Tensor values = backend_.Download(tensor.values);
    if (values.dtype() == DType::kF32) return values;
    Tensor out = Tensor::Empty(DType::kF32, values.shape());
    const int64_t cols = values.dim(1);
    const bool codes = values.dtype() == DType::kE4M3;
    const Tensor scale = codes ? backend_.Download(tensor.scale) : Tensor();
    pool_.ParallelFor(values.dim(0), 32, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) {
        float* row = out.as<float>() + t * cols;
        if (!codes) {
          std::transform(values.as<bf16_t>() + t * cols, values.as<bf16_t>() + (t + 1) * cols, row,
                         Bf16ToFloat);
          continue;
        }
        for (int64_t k = 0; k < cols; ++k)
          row[k] = kE4M3Values[values.as<e4m3_t>()[t * cols + k]] * scale.as<float>()[t];
      }
    });
    return out;
  }

  // ahead - behind, F32 of one shape.
  Tensor Difference(const Tensor& ahead, const Tensor& behind) const {
    Tensor out = Tensor::Empty(DType::kF32, ahead.shape());
    pool_.ParallelFor(ahead.num_elements(), 1 << 15, [&](int64_t begin, int64_t end, int) {
      std::transform(ahead.as<float>() + begin, ahead.as<float>() + end, behind.as<float>() + begin,
                     out.as<float>() + begin, std::minus<float>());
    });
    return out;
  }

  static void Subtract(const float* bias, Tensor& from) {
    for (int64_t t = 0; t < from.dim(0); ++t)
      for (int64_t n = 0; n < from.dim(1); ++n) from.as<float>()[t * from.dim(1) + n] -= bias[n];
  }

  Backend& backend_;
  ThreadPool& pool_;
  const FitShape shape_;
  const std::string name_;
  InputStats stats_;
  Correction correction_;
  std::optional<SolverPlan> plan_;
};

}  // namespace

std::unique_ptr<InputFit> HostFitter::Start(const FitShape& shape, std::string name) {
  return std::make_unique<HostFit>(backend_, pool_, shape, std::move(name));
}

}  // namespace fireq::quant
