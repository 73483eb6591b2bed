#include "fireq/backends/sm90/fit/sm90_fitter.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "fireq/backends/sm90/backend/device_memory.h"
#include "fireq/backends/sm90/backend/prepared.h"
#include "fireq/backends/sm90/backend/stream_owner.h"
#include "fireq/backends/sm90/fit/cholesky.h"
#include "fireq/backends/sm90/fit/code_solver.h"

namespace fireq {
namespace sm90 {
namespace {

// Columns of X^T X that one product makes, from the diagonal down.
constexpr int64_t kPanel = 2048;

RowsView ViewOf(const ActTensor& tensor) {
  const DType dtype = tensor.values.dtype();
  RowsView out;
  out.values = tensor.values.data();
  out.form = dtype == DType::kF32    ? RowForm::kF32
             : dtype == DType::kBF16 ? RowForm::kBf16
                                     : RowForm::kE4M3;
  if (dtype == DType::kE4M3) out.scale = tensor.scale.as<float>();
  return out;
}

Tensor UploadMatrix(const Matrix<float>& matrix, const std::shared_ptr<Stream>& stream) {
  return UploadTensor(Tensor(DType::kF32, {matrix.rows, matrix.cols},
                             const_cast<float*>(matrix.data.data()), /*owner=*/nullptr),
                      stream);
}

class Sm90Fit final : public InputFit {
 public:
  Sm90Fit(Backend& backend, std::shared_ptr<Stream> stream, F32Gemm& gemm, const FitShape& shape,
          std::string name)
      : backend_(backend),
        stream_(std::move(stream)),
        gemm_(gemm),
        shape_(shape),
        name_(std::move(name)) {
    const auto zeros = [&](DType dtype, Shape of) {
      Tensor out = AllocateDevice(stream_, dtype, std::move(of));
      FIREQ_CUDA(
          cudaMemsetAsync(out.data(), 0, static_cast<size_t>(out.size_bytes()), stream_->get()));
      return out;
    };
    energy_ = zeros(DType::kU8, {shape.k * static_cast<int64_t>(sizeof(double))});
    if (shape.full) sums_ = zeros(DType::kF32, {shape.k, shape.k});
    if (shape.target != FitTarget::kNone)
      cross_ = zeros(DType::kF32, {shape.k, shape.cross_columns()});
  }

  const FitShape& shape() const override { return shape_; }

  void Add(const FitTokens& tokens) override {
    // Ops whose results a linear might have made for itself are run.
    backend_.Synchronize();
    const int64_t rows = tokens.x.values.dim(0), k = shape_.k;
    const Tensor x = AllocateDevice(stream_, DType::kF32, {rows, k});
    LaunchDifference(ViewOf(tokens.x), {}, nullptr, rows, k, x.as<float>(), stream_->get());
    LaunchAddEnergy(x.as<float>(), rows, k, Energy(), stream_->get());
    if (sums_.defined()) AddSecondMoments(x);
    if (cross_.defined()) AddCross(tokens, x);
  }

  const std::vector<double>& Diagonal() override {
    if (!diagonal_.empty()) return diagonal_;
    diagonal_.resize(static_cast<size_t>(shape_.k));
    FIREQ_CUDA(cudaMemcpyAsync(diagonal_.data(), energy_.data(),
                               static_cast<size_t>(energy_.size_bytes()), cudaMemcpyDeviceToHost,
                               stream_->get()));
    stream_->Synchronize();
    for (size_t j = 0; j < diagonal_.size(); ++j)
      FIREQ_CHECK(std::isfinite(diagonal_[j]), kCorrupt, name_, ": activations of channel ", j,
                  " are not finite in calibration");
    return diagonal_;
  }

  Matrix<float> WithinGroups() override {
    FIREQ_CHECK(sums_.defined(), kInternal, name_, ": only the diagonal of X^T X was kept");
    const int64_t k = shape_.k;
    Matrix<float> out(k, kGroup);
    for (int64_t first = 0; first < k; first += kGroup) {
      // Inside a panel both triangles are there.
      const auto count = static_cast<size_t>(std::min<int64_t>(kGroup, k - first));
      FIREQ_CUDA(cudaMemcpy2DAsync(out.row(first), kGroup * sizeof(float),
                                   sums_.as<float>() + first * k + first,
                                   static_cast<size_t>(k) * sizeof(float), count * sizeof(float),
                                   count, cudaMemcpyDeviceToHost, stream_->get()));
    }
    stream_->Synchronize();
    return out;
  }

  void Correct(double damping, const Matrix<float>& weight, const std::string& name) override {
    const FitDamping scale = DampingOf(Diagonal(), damping);
    const float inverse_unit = static_cast<float>(1.0 / scale.unit);
    if (shape_.target == FitTarget::kOutput) {
      FIREQ_CHECK(weight.rows == shape_.outputs && weight.cols == shape_.k, kShapeMismatch, name,
                  ": a weight of [", weight.rows, ", ", weight.cols, "]");
      const Tensor w = UploadMatrix(weight, stream_);
      LaunchTurn(w.as<float>(), shape_.k, weight.rows, static_cast<float>(scale.term / scale.unit),
                 inverse_unit, cross_.as<float>(), stream_->get());
    } else {
      LaunchScale(cross_.as<float>(), cross_.num_elements(), inverse_unit, stream_->get());
    }
    Cholesky(stream_, gemm_, Damped(scale), name).Solve(cross_);
    corrected_ = true;
  }

  Matrix<float> Corrected(const Matrix<float>& w) override {
    if (!corrected_) return w;
    const Tensor out = AllocateDevice(stream_, DType::kF32, {w.rows, w.cols});
    if (shape_.target == FitTarget::kOutput) {
      LaunchTurn(cross_.as<float>(), w.rows, w.cols, 1.0f, 0.0f, out.as<float>(), stream_->get());
    } else {
      const Tensor given = UploadMatrix(w, stream_);
      FIREQ_CUDA(cudaMemcpyAsync(out.data(), given.data(), static_cast<size_t>(out.size_bytes()),
                                 cudaMemcpyDeviceToDevice, stream_->get()));
      gemm_.Run({.m = w.rows,
                 .n = w.cols,
                 .k = w.cols,
                 .a = {given.as<float>(), w.cols},
                 .b = {cross_.as<float>(), w.cols, Turn::kYes},
                 .c = out.as<float>(),
                 .c_stride = w.cols,
                 .beta = 1.0f});
    }
    Matrix<float> v(w.rows, w.cols);
    FIREQ_CUDA(cudaMemcpyAsync(v.data.data(), out.data(), static_cast<size_t>(out.size_bytes()),
                               cudaMemcpyDeviceToHost, stream_->get()));
    stream_->Synchronize();
    return v;
  }

  void Factorise(double damping, const std::string& name) override {
    const FitDamping scale = DampingOf(Diagonal(), damping);
    const std::vector<float> importance = ImportanceOf(Diagonal(), damping);
    std::vector<int32_t> order(importance.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return importance[static_cast<size_t>(a)] > importance[static_cast<size_t>(b)];
    });
    DevicePlan plan = MakePlaces(stream_, order);
    const Tensor damped = Damped(scale);
    plan.hessian = Reordered(damped, order);
    std::reverse(order.begin(), order.end());
    const Cholesky cholesky(stream_, gemm_, Reordered(damped, order), name);
    plan.feedback = AllocateDevice(stream_, DType::kF32, {shape_.k, shape_.k});
    LaunchFeedback(cholesky.factor().as<float>(), shape_.k, plan.feedback.as<float>(),
                   stream_->get());
    plan_ = std::move(plan);
  }

  void SolveCodes(const Matrix<float>& w, ErrorProducts products, int64_t sweeps,
                  WeightI4& out) override {
    FIREQ_CHECK(plan_.has_value(), kInternal, name_, ": codes before the factorisation");
    SolveCodesOnDevice(stream_, gemm_, w, *plan_, products, sweeps, out);
  }

 private:
  void AddSecondMoments(const Tensor& x) {
    const int64_t k = shape_.k;
    for (int64_t first = 0; first < k; first += kPanel)
      gemm_.Run({.m = k - first,
                 .n = std::min(kPanel, k - first),
                 .k = x.dim(0),
                 .a = {x.as<float>() + first, k, Turn::kYes},
                 .b = {x.as<float>() + first, k},
                 .c = sums_.as<float>() + first * k + first,
                 .c_stride = k,
                 .beta = 1.0f});
  }

  void AddCross(const FitTokens& tokens, const Tensor& x) {
    const int64_t rows = x.dim(0), columns = shape_.cross_columns();
    const bool output = shape_.target == FitTarget::kOutput;
    const Tensor y = AllocateDevice(stream_, DType::kF32, {rows, columns});
    Tensor bias;
    if (output && tokens.bias != nullptr)
      bias = UploadTensor(Tensor(DType::kF32, {columns}, const_cast<float*>(tokens.bias), nullptr),
                          stream_);
    LaunchDifference(
        ViewOf(tokens.ahead), output ? ViewOf({tokens.behind, {}, {}}) : RowsView{x.data()},
        bias.defined() ? bias.as<float>() : nullptr, rows, columns, y.as<float>(), stream_->get());
    gemm_.Run({.m = shape_.k,
               .n = columns,
               .k = rows,
               .a = {x.as<float>(), shape_.k, Turn::kYes},
               .b = {y.as<float>(), columns},
               .c = cross_.as<float>(),
               .c_stride = columns,
               .beta = 1.0f});
  }

  // (X^T X + term) / unit [K, K], both triangles.
  Tensor Damped(const FitDamping& scale) const {
    FIREQ_CHECK(sums_.defined(), kInternal, name_, ": only the diagonal of X^T X was kept");
    Tensor h = AllocateDevice(stream_, DType::kF32, {shape_.k, shape_.k});
    LaunchDamp(sums_.as<float>(), Energy(), shape_.k, scale.term, scale.unit, h.as<float>(),
               stream_->get());
    return h;
  }

  Tensor Reordered(const Tensor& h, const std::vector<int32_t>& order) const {
    const Tensor places = UploadTensor(Tensor::FromVector(DType::kI32, {shape_.k}, order), stream_);
    Tensor out = AllocateDevice(stream_, DType::kF32, {shape_.k, shape_.k});
    LaunchReorder(h.as<float>(), places.as<int32_t>(), shape_.k, out.as<float>(), stream_->get());
    return out;
  }

  double* Energy() const { return static_cast<double*>(energy_.data()); }

  Backend& backend_;
  const std::shared_ptr<Stream> stream_;
  F32Gemm& gemm_;
  const FitShape shape_;
  const std::string name_;
  Tensor energy_;  // F64 [K], as bytes
  Tensor sums_;    // [K, K] X^T X: panels from the diagonal down
  Tensor cross_;   // [K, M]; C once it is corrected
  bool corrected_ = false;
  std::vector<double> diagonal_;
  std::optional<DevicePlan> plan_;
};

class Sm90Fitter final : public Fitter {
 public:
  Sm90Fitter(Backend& backend, std::shared_ptr<Stream> stream)
      : backend_(backend), stream_(stream), gemm_(std::move(stream)) {}
  std::unique_ptr<InputFit> Start(const FitShape& shape, std::string name) override {
    return std::make_unique<Sm90Fit>(backend_, stream_, gemm_, shape, std::move(name));
  }

 private:
  Backend& backend_;
  std::shared_ptr<Stream> stream_;
  F32Gemm gemm_;
};

}  // namespace
}  // namespace sm90

std::unique_ptr<Fitter> MakeSm90Fitter(Backend& backend) {
  auto* owner = dynamic_cast<sm90::StreamOwner*>(&backend);
  FIREQ_CHECK(owner != nullptr, kInvalidArgument, "a fitter on a GPU for the backend ",
              backend.name());
  return std::make_unique<sm90::Sm90Fitter>(backend, owner->shared_stream());
}

}  // namespace fireq
