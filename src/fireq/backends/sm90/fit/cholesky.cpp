#include "fireq/backends/sm90/fit/cholesky.h"

#include <algorithm>

#include "fireq/backends/sm90/backend/device_memory.h"
#include "fireq/backends/sm90/fit/launch.h"
#include "fireq/base/math.h"
#include "fireq/ops/input_fit.h"

namespace fireq::sm90 {
namespace {

// Of what is left to factorise, updated at once: what lies above the diagonal within one is lost
// work.
constexpr int64_t kStrip = 2048;

void CopyRows(const float* from, int64_t rows, int64_t cols, float* to, int64_t stride,
              cudaStream_t stream) {
  const auto bytes = [](int64_t count) { return static_cast<size_t>(count) * sizeof(float); };
  FIREQ_CUDA(cudaMemcpy2DAsync(to, bytes(stride), from, bytes(cols), bytes(cols),
                               static_cast<size_t>(rows), cudaMemcpyDeviceToDevice, stream));
}

}  // namespace

Cholesky::Cholesky(std::shared_ptr<Stream> stream, F32Gemm& gemm, Tensor h, const std::string& name)
    : stream_(std::move(stream)), gemm_(gemm), k_(h.dim(0)), h_(std::move(h)) {
  const int64_t blocks = CeilDiv<int64_t>(k_, kCholeskyBlock);
  inverses_ = AllocateDevice(stream_, DType::kF32, {blocks, kCholeskyBlock, kCholeskyBlock});
  const Tensor failed = AllocateDevice(stream_, DType::kI32, {1});
  FIREQ_CUDA(cudaMemsetAsync(failed.data(), 0, sizeof(int32_t), stream_->get()));
  Factor(failed.as<int32_t>());
  int32_t at = 0;
  FIREQ_CUDA(
      cudaMemcpyAsync(&at, failed.data(), sizeof at, cudaMemcpyDeviceToHost, stream_->get()));
  stream_->Synchronize();
  CheckPositiveDefinite(at, k_, name);
}

Cholesky::Range Cholesky::BlockAt(int64_t begin) const {
  return {begin, std::min(begin + kCholeskyBlock, k_)};
}

const float* Cholesky::Inverse(int64_t begin) const {
  return inverses_.as<float>() + begin * kCholeskyBlock;
}

void Cholesky::Factor(int32_t* failed) {
  float* h = h_.as<float>();
  const Tensor panel = AllocateDevice(stream_, DType::kF32, {k_, kCholeskyBlock});
  for (int64_t begin = 0; begin < k_; begin += kCholeskyBlock) {
    const Range block = BlockAt(begin);
    LaunchFactorBlock(h + begin * k_ + begin, k_, block.size(), begin,
                      inverses_.as<float>() + begin * kCholeskyBlock, failed, stream_->get());
    const int64_t below = k_ - block.end;
    if (below == 0) break;
    // Rows below: times the inverse of the diagonal block's factor, turned.
    gemm_.Run({.m = below,
               .n = block.size(),
               .k = block.size(),
               .a = {h + block.end * k_ + begin, k_},
               .b = {Inverse(begin), kCholeskyBlock, Turn::kYes},
               .c = panel.as<float>(),
               .c_stride = block.size()});
    CopyRows(panel.as<float>(), below, block.size(), h + block.end * k_ + begin, k_,
             stream_->get());
    for (int64_t first = block.end; first < k_; first += kStrip) {
      const int64_t last = std::min(first + kStrip, k_);
      const float* rows = panel.as<float>() + (first - block.end) * block.size();
      gemm_.Run({.m = k_ - first,
                 .n = last - first,
                 .k = block.size(),
                 .a = {rows, block.size()},
                 .b = {rows, block.size(), Turn::kYes},
                 .c = h + first * k_ + first,
                 .c_stride = k_,
                 .alpha = -1.0f,
                 .beta = 1.0f});
    }
  }
}

// Rows `block` of b: times the inverse of the diagonal block.
void Cholesky::MultiplyBlock(const Range& block, Turn turn, const Tensor& b) {
  const int64_t columns = b.dim(1);
  float* rows = b.as<float>() + block.begin * columns;
  const Tensor out = AllocateDevice(stream_, DType::kF32, {block.size(), columns});
  gemm_.Run({.m = block.size(),
             .n = columns,
             .k = block.size(),
             .a = {Inverse(block.begin), kCholeskyBlock, turn},
             .b = {rows, columns},
             .c = out.as<float>(),
             .c_stride = columns});
  CopyRows(out.as<float>(), block.size(), columns, rows, columns, stream_->get());
}

void Cholesky::Solve(const Tensor& b) {
  const float* h = h_.as<float>();
  const int64_t columns = b.dim(1);
  float* x = b.as<float>();
  for (int64_t begin = 0; begin < k_; begin += kCholeskyBlock) {  // L y = b
    const Range block = BlockAt(begin);
    MultiplyBlock(block, Turn::kNo, b);
    gemm_.Run({.m = k_ - block.end,
               .n = columns,
               .k = block.size(),
               .a = {h + block.end * k_ + begin, k_},
               .b = {x + begin * columns, columns},
               .c = x + block.end * columns,
               .c_stride = columns,
               .alpha = -1.0f,
               .beta = 1.0f});
  }
  const int64_t blocks = CeilDiv<int64_t>(k_, kCholeskyBlock);
  for (int64_t i = blocks - 1; i >= 0; --i) {  // L^T x = y
    const Range block = BlockAt(i * kCholeskyBlock);
    MultiplyBlock(block, Turn::kYes, b);
    gemm_.Run({.m = block.begin,
               .n = columns,
               .k = block.size(),
               .a = {h + block.begin * k_, k_, Turn::kYes},
               .b = {x + block.begin * columns, columns},
               .c = x,
               .c_stride = columns,
               .alpha = -1.0f,
               .beta = 1.0f});
  }
}

}  // namespace fireq::sm90
