// One diagonal block of a Cholesky factorisation, with its inverse, and the feedback weights.
#include "fireq/backends/sm90/fit/launch.h"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/base/math.h"

namespace fireq::sm90 {
namespace {

constexpr int kBlock = kCholeskyBlock;
constexpr int kPitch = kBlock + 1;  // floats between rows, so that columns are free of conflicts
constexpr int kThreads = 512;
constexpr int kSharedBytes = 2 * kBlock * kPitch * static_cast<int>(sizeof(float));
constexpr int kFeedbackThreads = 256;

__global__ void __launch_bounds__(kThreads, 1)
    FactorBlockKernel(float* a, int64_t stride, int size, int first, float* inverse,
                      int32_t* failed) {
  extern __shared__ float shared[];
  float* l = shared;
  float* inv = shared + kBlock * kPitch;
  for (int i = threadIdx.x; i < kBlock * kBlock; i += kThreads) {
    const int row = i / kBlock, column = i % kBlock;
    // Past the end a unit matrix.
    l[row * kPitch + column] = row < size && column < size ? a[row * stride + column]
                               : row == column             ? 1.0f
                                                           : 0.0f;
    inv[row * kPitch + column] = 0.0f;
  }
  __syncthreads();
  for (int j = 0; j < size; ++j) {
    const float pivot = l[j * kPitch + j];
    if (!(pivot > 0.0f) && threadIdx.x == 0) atomicCAS(failed, 0, first + j + 1);
    const float root = sqrtf(fmaxf(pivot, 1e-30f));
    __syncthreads();  // all have read the pivot
    for (int i = j + static_cast<int>(threadIdx.x); i < size; i += kThreads)
      l[i * kPitch + j] = i == j ? root : l[i * kPitch + j] / root;
    __syncthreads();  // column j is whole
    const int left = size - j - 1;
    for (int at = threadIdx.x; at < left * left; at += kThreads) {
      const int row = j + 1 + at / left, column = j + 1 + at % left;
      if (column <= row) l[row * kPitch + column] -= l[row * kPitch + j] * l[column * kPitch + j];
    }
    __syncthreads();  // what is left is up to date
  }
  // Column c of the inverse by a thread of its own.
  const int c = threadIdx.x;
  if (c < kBlock) {
    inv[c * kPitch + c] = 1.0f / l[c * kPitch + c];
    for (int i = c + 1; i < kBlock; ++i) {
      float sum[4] = {};
      int k = c;
      for (; k + 4 <= i; k += 4)
        for (int q = 0; q < 4; ++q) sum[q] += l[i * kPitch + k + q] * inv[(k + q) * kPitch + c];
      for (; k < i; ++k) sum[0] += l[i * kPitch + k] * inv[k * kPitch + c];
      inv[i * kPitch + c] = -((sum[0] + sum[1]) + (sum[2] + sum[3])) / l[i * kPitch + i];
    }
  }
  __syncthreads();  // the inverse is whole
  for (int i = threadIdx.x; i < kBlock * kBlock; i += kThreads) {
    const int row = i / kBlock, column = i % kBlock;
    if (column <= row && row < size) a[row * stride + column] = l[row * kPitch + column];
    inverse[i] = inv[row * kPitch + column];
  }
}

// With J the reversal, J h J = L L^T: row j, column c of A + I is L's at (k-1-j, k-1-c) over the
// diagonal of that column.
__global__ void FeedbackKernel(const float* factor, int64_t k, float* feedback) {
  const int64_t j = blockIdx.x;
  for (int64_t c = threadIdx.x; c < k; c += kFeedbackThreads) {
    const int64_t column = k - 1 - c;
    feedback[j * k + c] =
        j < c ? factor[(k - 1 - j) * k + column] / factor[column * k + column] : 0.0f;
  }
}

}  // namespace

void LaunchFactorBlock(float* a, int64_t stride, int64_t size, int64_t first, float* inverse,
                       int32_t* failed, cudaStream_t stream) {
  FIREQ_CUDA(cudaFuncSetAttribute(FactorBlockKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  kSharedBytes));
  FactorBlockKernel<<<1, kThreads, kSharedBytes, stream>>>(
      a, stride, static_cast<int>(size), static_cast<int>(first), inverse, failed);
  CheckLaunch("fit_factor_block");
}

void LaunchFeedback(const float* factor, int64_t k, float* feedback, cudaStream_t stream) {
  FeedbackKernel<<<static_cast<unsigned>(k), kFeedbackThreads, 0, stream>>>(factor, k, feedback);
  CheckLaunch("fit_feedback");
}

}  // namespace fireq::sm90
