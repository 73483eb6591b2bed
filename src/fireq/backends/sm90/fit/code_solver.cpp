#include "fireq/backends/sm90/fit/code_solver.h"

#include <algorithm>

#include "fireq/backends/sm90/backend/device_memory.h"
#include "fireq/backends/sm90/backend/prepared.h"
#include "fireq/base/math.h"

namespace fireq::sm90 {
namespace {

Tensor Upload(const std::shared_ptr<Stream>& stream, DType dtype, Shape shape, const void* data) {
  // A view: the copy has been made when UploadTensor returns.
  return UploadTensor(Tensor(dtype, std::move(shape), const_cast<void*>(data), /*owner=*/nullptr),
                      stream);
}

class Solver {
 public:
  Solver(const std::shared_ptr<Stream>& stream, F32Gemm& gemm, const Matrix<float>& w,
         const DevicePlan& plan, ErrorProducts products, WeightI4& out)
      : stream_(stream),
        gemm_(gemm),
        plan_(plan),
        products_(products),
        out_(out),
        n_(w.rows),
        k_(w.cols),
        groups_(WeightI4Layout{n_, k_}.groups()) {
    const auto floats = [&](int64_t rows) { return Allocate(DType::kF32, {rows, n_}); };
    target_ = floats(k_);
    work_ = floats(k_);
    value_ = floats(k_);
    left_ = floats(kSolverBlock);
    scale_ = floats(groups_);
    zero_ = floats(groups_);
    code_ = Allocate(DType::kU8, {k_, n_});
    state_ = {.n = n_,
              .k = k_,
              .target = target_.as<float>(),
              .work = work_.as<float>(),
              .value = value_.as<float>(),
              .code = code_.as<uint8_t>(),
              .scale = scale_.as<float>(),
              .zero = zero_.as<float>(),
              .group = plan.group.as<int32_t>(),
              .place = plan.place.as<int32_t>()};
    {
      const Tensor given = Upload(stream_, DType::kF32, {n_, k_}, w.data.data());
      LaunchTurnColumns(given.as<float>(), n_, k_, state_.place, out.t, target_.as<float>(),
                        stream_->get());
    }
    const Tensor scales = UploadTensor(out.scale, stream_), zeros = UploadTensor(out.zero, stream_);
    LaunchLoadGrid(scales.as<uint8_t>(), zeros.as<uint8_t>(), n_, groups_, state_.scale,
                   zero_.as<float>(), stream_->get());
  }

  // Error-compensated rounding of all columns in order.
  void Round() {
    FIREQ_CUDA(cudaMemcpyAsync(work_.data(), target_.data(),
                               static_cast<size_t>(target_.size_bytes()), cudaMemcpyDeviceToDevice,
                               stream_->get()));
    Visit(ColumnStep::kRound, plan_.feedback.as<float>());
  }

  // work <- H (w_hat - w), half the gradient of the error by each column.
  void ComputeGradient() {
    const Tensor difference = Allocate(DType::kF32, {k_, n_});
    LaunchSubtract(state_.value, state_.target, k_ * n_, difference.as<float>(), stream_->get());
    gemm_.Run({.m = k_,
               .n = n_,
               .k = k_,
               .a = {plan_.hessian.as<float>(), k_},
               .b = {difference.as<float>(), n_},
               .c = state_.work,
               .c_stride = n_});
  }

  // Each group's scale in turn to the neighbouring E4M3 value that lowers the error most.
  void RefitScales() {
    const Tensor rows = Allocate(DType::kF32, {kGroup, k_});
    const Tensor local = Allocate(DType::kF32, {kGroup, kGroup});
    const Tensor step = Allocate(DType::kF32, {kGroup, kRefitTries * n_});
    const Tensor curved = Allocate(DType::kF32, {kGroup, kRefitTries * n_});
    const Tensor change = Allocate(DType::kF32, {kRefitTries, n_});
    const Tensor taken = Allocate(DType::kF32, {kGroup, n_});
    for (int64_t group = 0; group < groups_; ++group) {
      const int64_t count = std::min<int64_t>(kGroup, k_ - group * kGroup);
      LaunchGatherGroup(plan_.hessian.as<float>(), k_, state_.place + group * kGroup, count,
                        rows.as<float>(), local.as<float>(), stream_->get());
      LaunchTryScales(state_, products_, group, count, step.as<float>(), stream_->get());
      gemm_.Run({.m = count,
                 .n = kRefitTries * n_,
                 .k = count,
                 .a = {local.as<float>(), count},
                 .b = {step.as<float>(), kRefitTries * n_},
                 .c = curved.as<float>(),
                 .c_stride = kRefitTries * n_});
      LaunchTakeScales(state_, products_, group, count, local.as<float>(), step.as<float>(),
                       curved.as<float>(), change.as<float>(), taken.as<float>(), stream_->get());
      gemm_.Run({.m = k_,
                 .n = n_,
                 .k = count,
                 .a = {rows.as<float>(), k_, Turn::kYes},
                 .b = {taken.as<float>(), n_},
                 .c = state_.work,
                 .c_stride = n_,
                 .beta = 1.0f});
    }
  }

  // Every code in turn to the best value given all others.
  void Sweep() { Visit(ColumnStep::kSweep, plan_.hessian.as<float>()); }

  void Store() {
    const int64_t bytes = WeightI4Layout{n_, k_}.code_bytes_per_row();
    const Tensor codes = Allocate(DType::kU8, {n_, bytes});
    const Tensor scales = Allocate(DType::kU8, {n_, groups_});
    LaunchPackCodes(state_, bytes, codes.as<uint8_t>(), stream_->get());
    LaunchStoreScales(state_.scale, n_, groups_, scales.as<uint8_t>(), stream_->get());
    for (const auto& [from, to] : {std::pair(&codes, &out_.codes), std::pair(&scales, &out_.scale)})
      FIREQ_CUDA(cudaMemcpyAsync(to->data(), from->data(), static_cast<size_t>(to->size_bytes()),
                                 cudaMemcpyDeviceToHost, stream_->get()));
    stream_->Synchronize();
  }

 private:
  Tensor Allocate(DType dtype, Shape shape) const {
    return AllocateDevice(stream_, dtype, std::move(shape));
  }

  // Columns in order; what a block of them leaves is added to all behind it at once.
  void Visit(ColumnStep step, const float* factors) {
    for (int64_t begin = 0; begin < k_; begin += kSolverBlock) {
      const int64_t count = std::min(kSolverBlock, k_ - begin), end = begin + count;
      LaunchSolveColumns(state_, step, products_, factors + begin * k_, begin, count,
                         left_.as<float>(), stream_->get());
      gemm_.Run({.m = k_ - end,
                 .n = n_,
                 .k = count,
                 .a = {factors + begin * k_ + end, k_, Turn::kYes},
                 .b = {left_.as<float>(), n_},
                 .c = state_.work + end * n_,
                 .c_stride = n_,
                 .beta = 1.0f});
    }
  }

  const std::shared_ptr<Stream>& stream_;
  F32Gemm& gemm_;
  const DevicePlan& plan_;
  const ErrorProducts products_;
  WeightI4& out_;
  const int64_t n_, k_, groups_;
  Tensor target_, work_, value_, left_, scale_, zero_, code_;
  CodeState state_;
};

}  // namespace

DevicePlan MakePlaces(const std::shared_ptr<Stream>& stream, const std::vector<int32_t>& order) {
  const int64_t k = std::ssize(order);
  std::vector<int32_t> place(order.size()), group(order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    place[static_cast<size_t>(order[i])] = static_cast<int32_t>(i);
    group[i] = static_cast<int32_t>(order[i] / kGroup);
  }
  DevicePlan plan;
  plan.place = Upload(stream, DType::kI32, {k}, place.data());
  plan.group = Upload(stream, DType::kI32, {k}, group.data());
  return plan;
}

void SolveCodesOnDevice(const std::shared_ptr<Stream>& stream, F32Gemm& gemm,
                        const Matrix<float>& w, const DevicePlan& plan, ErrorProducts products,
                        int64_t sweeps, WeightI4& out) {
  FIREQ_CHECK(out.n == w.rows && out.k == w.cols && plan.hessian.dim(0) == w.cols, kShapeMismatch,
              "codes of [", w.rows, ", ", w.cols, "] with a Hessian of ", plan.hessian.dim(0));
  Solver solver(stream, gemm, w, plan, products, out);
  solver.Round();
  for (int64_t sweep = 0; sweep < sweeps; ++sweep) {
    solver.ComputeGradient();
    solver.RefitScales();
    solver.Sweep();
  }
  solver.Store();
}

}  // namespace fireq::sm90
