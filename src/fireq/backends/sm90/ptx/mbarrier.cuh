// mbarrier: shared-memory barriers that count arrivals and copied bytes. One instruction a function
// (PTX ISA 8.x, "Parallel Synchronization: mbarrier").
#pragma once

#include <cstdint>

namespace fireq::sm90 {

using Mbarrier = uint64_t;  // opaque, 8-byte aligned, in shared memory

// The 32-bit address of shared memory that PTX wants.
__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// mbarrier.init: `arrivals` arrivals (and all announced bytes) complete a phase.
__device__ __forceinline__ void MbarrierInit(Mbarrier* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)),
               "r"(arrivals)
               : "memory");
}

// fence.mbarrier_init: makes inits visible to the copy engine and to the cluster; follow it with a
// CTA or cluster barrier.
__device__ __forceinline__ void FenceMbarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// mbarrier.arrive.expect_tx: announces `bytes` of copies and arrives once.
__device__ __forceinline__ void MbarrierArriveExpectTx(Mbarrier* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)),
      "r"(bytes)
      : "memory");
}

// mbarrier.arrive (release at CTA scope); on a barrier, or on what SharedAddress says of it.
__device__ __forceinline__ void MbarrierArrive(uint32_t address) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address) : "memory");
}
__device__ __forceinline__ void MbarrierArrive(Mbarrier* barrier) {
  MbarrierArrive(SharedAddress(barrier));
}

// mapa: the address, in the cluster's window, of the same place in CTA `rank`'s shared memory.
__device__ __forceinline__ uint32_t ClusterAddress(const void* pointer, uint32_t rank) {
  uint32_t address;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
               : "=r"(address)
               : "r"(SharedAddress(pointer)), "r"(rank));
  return address;
}

// mbarrier.arrive on a barrier of any CTA of the cluster (an address of ClusterAddress), to say
// that its copies may overwrite what this thread has read. NOTE: a release at cluster scope would
// order writes too, but compiles to a fence of all memory at GPU scope, a microsecond long.
__device__ __forceinline__ void MbarrierArriveCluster(uint32_t address) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(address) : "memory");
}

// The body of a function that says whether a phase has completed.
#define FIREQ_MBARRIER_PHASE(instruction, operands, ...)                        \
  uint32_t done;                                                                \
  asm volatile("{\n.reg .pred p;\n" instruction ".shared::cta.b64 p, " operands \
               ";\n"                                                            \
               "selp.u32 %0, 1, 0, p;\n}\n"                                     \
               : "=r"(done)                                                     \
               : __VA_ARGS__                                                    \
               : "memory");                                                     \
  return done != 0

// mbarrier.try_wait.parity: true once the phase of this parity has completed (may sleep a while).
__device__ __forceinline__ bool MbarrierTryWait(Mbarrier* barrier, uint32_t parity) {
  FIREQ_MBARRIER_PHASE("mbarrier.try_wait.parity", "[%1], %2", "r"(SharedAddress(barrier)),
                       "r"(parity));
}
// The same, asleep for up to `nanoseconds`: for a warp that would take issue slots from others.
__device__ __forceinline__ bool MbarrierTryWait(Mbarrier* barrier, uint32_t parity,
                                                uint32_t nanoseconds) {
  FIREQ_MBARRIER_PHASE("mbarrier.try_wait.parity", "[%1], %2, %3", "r"(SharedAddress(barrier)),
                       "r"(parity), "r"(nanoseconds));
}
// mbarrier.test_wait.parity: the same without sleeping.
__device__ __forceinline__ bool MbarrierTestWait(Mbarrier* barrier, uint32_t parity) {
  FIREQ_MBARRIER_PHASE("mbarrier.test_wait.parity", "[%1], %2", "r"(SharedAddress(barrier)),
                       "r"(parity));
}
#undef FIREQ_MBARRIER_PHASE

// Waits until the phase of this parity has completed (acquire at CTA scope).
__device__ __forceinline__ void MbarrierWait(Mbarrier* barrier, uint32_t parity) {
  while (!MbarrierTryWait(barrier, parity)) {
  }
}
__device__ __forceinline__ void MbarrierWaitAsleep(Mbarrier* barrier, uint32_t parity) {
  while (!MbarrierTryWait(barrier, parity, 100000)) {
  }
}

}  // namespace fireq::sm90
