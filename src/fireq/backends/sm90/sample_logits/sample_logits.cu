#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/backends/sm90/sample_logits/row_sampler.cuh"

namespace fireq::sm90 {
namespace {

constexpr int32_t kMaxVocab = 1 << 20;  // a bit an id in shared memory

// CTAs a row: several where one each would leave multiprocessors idle.
unsigned ClusterFor(int64_t rows) {
  unsigned cluster = kMaxSampleCluster;
  while (cluster > 1 && rows * cluster > NumSms()) cluster /= 2;
  return cluster;
}

template <class Logit>
__global__ void __launch_bounds__(kSampleThreads, 1)
    SampleLogitsKernel(const __grid_constant__ SampleLogitsParams params) {
  __shared__ SampleShared shared;
  extern __shared__ uint32_t seen[];
  RowSampler<Logit>(params, shared, seen).Run();
}

}  // namespace

void LaunchSampleLogits(const SampleLogitsParams& params, cudaStream_t stream) {
  FIREQ_CHECK(params.vocab > 0 && params.vocab <= kMaxVocab, kUnsupported, "sampling from ",
              params.vocab, " logits, more than ", kMaxVocab);
  if (params.num_rows == 0) return;
  const int seen_bytes = (params.vocab + 31) / 32 * 4;
  const auto kernel = params.half_logits ? SampleLogitsKernel<__half> : SampleLogitsKernel<float>;
  FIREQ_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, seen_bytes));
  const unsigned cluster = ClusterFor(params.num_rows);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {cluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(params.num_rows) * cluster;
  config.blockDim = kSampleThreads;
  config.dynamicSmemBytes = static_cast<size_t>(seen_bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  FIREQ_CUDA(cudaLaunchKernelEx(&config, kernel, params));
}

}  // namespace fireq::sm90
