#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/backends/sm90/sample_logits/row_sampler.cuh"

namespace fireq::sm90 {
namespace {

constexpr int32_t kMaxVocab = 1 << 20;  // a bit an id in shared memory

__global__ void __launch_bounds__(kSampleThreads, 1)
    SampleLogitsKernel(const __grid_constant__ SampleLogitsParams params) {
  __shared__ SampleShared shared;
  extern __shared__ uint32_t seen[];
  RowSampler(params, shared, seen).Run();
}

}  // namespace

void LaunchSampleLogits(const SampleLogitsParams& params, cudaStream_t stream) {
  FIREQ_CHECK(params.vocab > 0 && params.vocab <= kMaxVocab, kUnsupported, "sampling from ",
              params.vocab, " logits, more than ", kMaxVocab);
  if (params.num_rows == 0) return;
  const int seen_bytes = (params.vocab + 31) / 32 * 4;
  FIREQ_CUDA(cudaFuncSetAttribute(SampleLogitsKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  seen_bytes));
  SampleLogitsKernel<<<static_cast<unsigned>(params.num_rows), kSampleThreads,
                       static_cast<size_t>(seen_bytes), stream>>>(params);
  CheckLaunch("sample_logits");
}

}  // namespace fireq::sm90
