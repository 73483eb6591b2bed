#include "fireq/backends/sm90/peer_sum/launch.h"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/base/error.h"
#include "fireq/formats/bf16.h"

namespace fireq::sm90 {
namespace {

constexpr int kThreads = 512;

__device__ void Add(uint4 packed, float (&sum)[8]) {
  const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sum[2 * i] += Bf16ToFloat(static_cast<bf16_t>(words[i] & 0xFFFFu));
    sum[2 * i + 1] += Bf16ToFloat(static_cast<bf16_t>(words[i] >> 16));
  }
}

__device__ uint4 Pack(const float (&sum)[8]) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    words[i] = FloatToBf16(sum[2 * i]) | (uint32_t{FloatToBf16(sum[2 * i + 1])} << 16);
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Until the flag is `call` or a later one.
__device__ void WaitFor(const uint32_t* flag, uint32_t call, const uint32_t* stop) {
  constexpr int kSpins = 4096;  // between two looks at the host's memory
  while (true) {
    for (int spin = 0; spin < kSpins; ++spin)
      if (static_cast<int32_t>(LoadAcquireSystem(flag) - call) >= 0) return;
    if (*static_cast<const volatile uint32_t*>(stop) != 0) return;
  }
}

// Each CTA has its own part of the values, and waits for the same CTA of the other ranks alone.
// Turns alternate: who writes into a slot again has seen the flag of the call between, which its
// owner raised after reading the slot.
__global__ void __launch_bounds__(kThreads) PeerSumKernel(const __grid_constant__ PeerSumParams p) {
  GridDependencyLaunch();
  GridDependencyWait();
  const uint32_t call = p.calls[blockIdx.x] + 1;
  const int turn = static_cast<int>(call % 2);
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  constexpr int64_t kStep = int64_t{kPeerSumCtas} * kThreads;
  for (int64_t i = first; i < p.vectors; i += kStep) {
    const uint4 mine = p.values[i];
    for (int r = 0; r < p.layout.ranks; ++r)
      if (r != p.rank) reinterpret_cast<uint4*>(p.boxes[r] + p.layout.slot(turn, p.rank))[i] = mine;
  }
  __syncthreads();  // the flags cover what every thread has written; all have read `calls`
  const int peer = static_cast<int>(threadIdx.x);
  if (threadIdx.x == 0) p.calls[blockIdx.x] = call;
  if (peer < p.layout.ranks && peer != p.rank) {
    const int64_t flags = p.layout.flags(static_cast<int>(blockIdx.x));
    StoreReleaseSystem(reinterpret_cast<uint32_t*>(p.boxes[peer] + flags) + p.rank, call);
    WaitFor(reinterpret_cast<const uint32_t*>(p.boxes[p.rank] + flags) + peer, call, p.stop);
  }
  __syncthreads();  // the others' values are there
  for (int64_t i = first; i < p.vectors; i += kStep) {
    float sum[8] = {};
    for (int r = 0; r < p.layout.ranks; ++r)
      Add(r == p.rank ? p.values[i]
                      : reinterpret_cast<const uint4*>(p.boxes[p.rank] + p.layout.slot(turn, r))[i],
          sum);
    p.values[i] = Pack(sum);
  }
}

}  // namespace

void LaunchPeerSum(const PeerSumParams& params, cudaStream_t stream) {
  FIREQ_CHECK(params.layout.ranks >= 2 && params.layout.ranks <= kMaxPeerRanks &&
                  params.rank >= 0 && params.rank < params.layout.ranks && params.vectors >= 0 &&
                  params.vectors * 16 <= params.layout.slot_bytes,
              kInvalidArgument, "a sum of ", params.vectors * 8, " values over ",
              params.layout.ranks, " ranks in slots of ", params.layout.slot_bytes, " bytes");
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = kPeerSumCtas;
  config.blockDim = kThreads;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  FIREQ_CUDA(cudaLaunchKernelEx(&config, PeerSumKernel, params));
}

}  // namespace fireq::sm90
