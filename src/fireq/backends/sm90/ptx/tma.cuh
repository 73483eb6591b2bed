// The copy engine: bulk copies of contiguous bytes and of tensor boxes, completing on an mbarrier.
// PTX ISA 8.x, "cp.async.bulk" and "cp.async.bulk.tensor". Sizes and addresses: multiples of 16
// bytes (tensor boxes in swizzled layouts: shared addresses as the swizzle asks, 1024 for 128 B).
#pragma once

#include <cuda.h>

#include <cstdint>

#include "fireq/backends/sm90/ptx/mbarrier.cuh"

namespace fireq::sm90 {

// L2 cache policies as createpolicy.fractional makes them for a fraction of 1.
inline constexpr uint64_t kEvictFirst = 0x12F0000000000000;  // read once: weights
inline constexpr uint64_t kEvictLast = 0x14F0000000000000;   // read by every CTA: activations

// cp.async.bulk: `bytes` from device to this CTA's shared memory.
__device__ __forceinline__ void BulkLoad(void* shared, const void* global, uint32_t bytes,
                                         Mbarrier* barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1], %2, [%3], %4;" ::"r"(SharedAddress(shared)),
      "l"(global), "r"(bytes), "r"(SharedAddress(barrier)), "l"(policy)
      : "memory");
}

// cp.async.bulk between shared memories: `bytes` of this CTA to the place `to` in CTA `rank` of the
// cluster, completing on that CTA's `barrier`. The source must stay until the receiver has been
// told.
__device__ __forceinline__ void BulkSendToCluster(const void* to, const void* from, uint32_t bytes,
                                                  Mbarrier* barrier, uint32_t rank) {
  asm volatile(
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(ClusterAddress(to, rank)),
      "r"(SharedAddress(from)), "r"(bytes), "r"(ClusterAddress(barrier, rank))
      : "memory");
}

// prefetch.tensormap: a kernel's first copy would wait for its map to be fetched.
__device__ __forceinline__ void PrefetchTensorMap(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// cp.async.bulk.tensor.2d: the box at element (x, y).
__device__ __forceinline__ void TmaLoad2D(void* shared, const CUtensorMap* map, int x, int y,
                                          Mbarrier* barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(SharedAddress(shared)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(x), "r"(y), "l"(policy)
      : "memory");
}

// The box from shared to device memory; what lies outside the tensor is not written. Completes
// with the thread's bulk group.
__device__ __forceinline__ void TmaStore2D(const CUtensorMap* map, int x, int y,
                                           const void* shared) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
      "r"(SharedAddress(shared)), "r"(x), "r"(y)
      : "memory");
}
__device__ __forceinline__ void BulkGroupCommit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// cp.async.bulk: `bytes` from shared to device memory. Completes with the thread's bulk group.
__device__ __forceinline__ void BulkStore(void* global, const void* shared, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global),
               "r"(SharedAddress(shared)), "r"(bytes)
               : "memory");
}
// Until what all groups of this thread have written is there, for this thread.
__device__ __forceinline__ void BulkGroupsWait() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}
// Until all groups of this thread have read their shared memory.
__device__ __forceinline__ void BulkGroupsWaitRead() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

// cp.async.bulk.tensor.3d: the box at element (x, y, z).
__device__ __forceinline__ void TmaLoad3D(void* shared, const CUtensorMap* map, int x, int y, int z,
                                          Mbarrier* barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(SharedAddress(shared)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(x), "r"(y), "r"(z), "l"(policy)
      : "memory");
}

// cp.async.bulk.tensor.4d: the box at element (x, y, z, t).
__device__ __forceinline__ void TmaLoad4D(void* shared, const CUtensorMap* map, int x, int y, int z,
                                          int t, Mbarrier* barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(SharedAddress(shared)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(x), "r"(y), "r"(z), "r"(t), "l"(policy)
      : "memory");
}

// The 2-d load into every CTA of `cta_mask`, at the same shared offset, each on its own barrier.
__device__ __forceinline__ void TmaLoad2DMulticast(void* shared, const CUtensorMap* map, int x,
                                                   int y, Mbarrier* barrier, uint16_t cta_mask,
                                                   uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1, {%4, %5}], [%2], %3, %6;" ::"r"(
          SharedAddress(shared)),
      "l"(map), "r"(SharedAddress(barrier)), "h"(cta_mask), "r"(x), "r"(y), "l"(policy)
      : "memory");
}

}  // namespace fireq::sm90
