// Wide loads and stores. One instruction a function (PTX ISA 8.x: ld, red, atom,
// ldmatrix, stmatrix).
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/ptx/mbarrier.cuh"

namespace fireq::sm90 {

// ld.shared.v4: 16-byte aligned.
__device__ __forceinline__ uint4 LoadShared128(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address));
  return v;
}
__device__ __forceinline__ uint4 LoadShared128(const void* shared) {
  return LoadShared128(SharedAddress(shared));
}
// The same where `there`; else the words stay as they are.
__device__ __forceinline__ void LoadShared128If(bool there, uint32_t address, uint32_t& a,
                                                uint32_t& b, uint32_t& c, uint32_t& d) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.u32 p, %5, 0;\n"
      "@p ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];\n}\n"
      : "+r"(a), "+r"(b), "+r"(c), "+r"(d)
      : "r"(address), "r"(static_cast<uint32_t>(there)));
}
// ld.shared.u32.
__device__ __forceinline__ uint32_t LoadShared32(uint32_t address) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(address));
  return v;
}

// ld.shared::cluster.v4.f32 from an address made by ClusterAddress.
__device__ __forceinline__ float4 LoadCluster128(uint32_t address) {
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

// st.shared::cluster.u64 to an address made by ClusterAddress.
__device__ __forceinline__ void StoreCluster64(uint32_t address, uint64_t value) {
  asm volatile("st.shared::cluster.u64 [%0], %1;" ::"r"(address), "l"(value) : "memory");
}

// st.async to an address of another CTA of the cluster, which completes bytes on that CTA's barrier
// (both of ClusterAddress): who waits for the barrier sees them, and no fence is needed.
__device__ __forceinline__ void StoreAsync128(uint32_t address, float4 v, uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, "
      "[%5];" ::"r"(address),
      "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w), "r"(barrier)
      : "memory");
}
__device__ __forceinline__ void StoreAsync64(uint32_t address, float2 v, uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::
          "r"(address),
      "f"(v.x), "f"(v.y), "r"(barrier)
      : "memory");
}

// ld.global.s32 that stays where it is written: the compiler moves a plain load behind the branch
// or the load that decides whether its value is used.
__device__ __forceinline__ int32_t LoadGlobalNow(const int32_t* global) {
  int32_t v;
  asm volatile("ld.global.s32 %0, [%1];" : "=r"(v) : "l"(global));
  return v;
}

// prefetch.global.L1.
__device__ __forceinline__ void PrefetchL1(const void* global) {
  asm volatile("prefetch.global.L1 [%0];" ::"l"(global));
}

// prefetch.global.L2.
__device__ __forceinline__ void PrefetchL2(const void* global) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}

// ld.global.v4 that stays where it is written: ptxas moves one of read-only memory behind a wait
// for the kernel in front.
__device__ __forceinline__ uint4 LoadGlobalNow128(const void* global) {
  uint4 v;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global)
               : "memory");
  return v;
}

// cp.async.cg: 16 bytes from device to shared memory, past L1; then cp.async.wait_all: this
// thread's have come, for this thread to read.
__device__ __forceinline__ void CopyAsync128(uint32_t shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}
__device__ __forceinline__ void CopyAsyncWait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// ld.global.nc.L1::no_allocate.v4: 16 bytes read once, of memory that no running kernel writes.
__device__ __forceinline__ uint4 LoadGlobalOnce128(const void* global) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global));
  return v;
}

// red.relaxed.gpu.inc: adds 1, or sets to 0 what is `last`.
__device__ __forceinline__ void AddWrapping(uint32_t* count, uint32_t last) {
  asm volatile("red.relaxed.gpu.global.inc.u32 [%0], %1;" ::"l"(count), "r"(last) : "memory");
}
// red.release.gpu.add and ld.acquire.gpu of a count between CTAs.
__device__ __forceinline__ void AddRelease(uint32_t* count, uint32_t value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(count), "r"(value) : "memory");
}
__device__ __forceinline__ uint32_t LoadRelaxed(const uint32_t* flag) {
  uint32_t value;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}
// ld.relaxed.gpu.v4 and st.relaxed.gpu.v4 between CTAs: four words, each whole, in no order.
__device__ __forceinline__ uint4 LoadRelaxed128(const uint4* global) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global)
               : "memory");
  return v;
}
__device__ __forceinline__ void StoreRelaxed128(uint4* global, const uint4& v) {
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(global), "r"(v.x),
               "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
// st.relaxed.gpu of one and of two words, each whole.
__device__ __forceinline__ void StoreRelaxed(uint32_t* global, uint32_t v) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(global), "r"(v) : "memory");
}
__device__ __forceinline__ void StoreRelaxed64(uint32_t* global, uint2 v) {
  asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(global), "r"(v.x), "r"(v.y)
               : "memory");
}
__device__ __forceinline__ uint32_t LoadAcquire(const uint32_t* flag) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}

// st.relaxed.sys.v4 and ld.relaxed.sys.v4 of memory that GPUs share: four words, each whole, in no
// order.
__device__ __forceinline__ void StoreSystem128(void* global, uint4 v) {
  asm volatile("st.relaxed.sys.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(global), "r"(v.x),
               "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
__device__ __forceinline__ uint4 LoadSystem128(const void* global) {
  uint4 v;
  asm volatile("ld.relaxed.sys.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global)
               : "memory");
  return v;
}
// The same where `wanted`; else the words stay as they are.
__device__ __forceinline__ void LoadSystem128If(bool wanted, const void* global, uint4& v) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.u32 p, %5, 0;\n"
      "@p ld.relaxed.sys.global.v4.u32 {%0, %1, %2, %3}, [%4];\n}\n"
      : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
      : "l"(global), "r"(static_cast<uint32_t>(wanted))
      : "memory");
}

// The same of eight and of four bytes.
__device__ __forceinline__ void StoreSystem64(void* global, uint2 v) {
  asm volatile("st.relaxed.sys.global.v2.u32 [%0], {%1, %2};" ::"l"(global), "r"(v.x), "r"(v.y)
               : "memory");
}
__device__ __forceinline__ uint2 LoadSystem64(const void* global) {
  uint2 v;
  asm volatile("ld.relaxed.sys.global.v2.u32 {%0, %1}, [%2];"
               : "=r"(v.x), "=r"(v.y)
               : "l"(global)
               : "memory");
  return v;
}
__device__ __forceinline__ void StoreSystem32(void* global, uint32_t v) {
  asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(global), "r"(v) : "memory");
}
__device__ __forceinline__ uint32_t LoadSystem32(const void* global) {
  uint32_t v;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(global) : "memory");
  return v;
}

// ldmatrix.x4.trans: four 8x8 tiles of 16-bit elements, transposed; addresses as below.
__device__ __forceinline__ uint4 LoadMatrix4Trans(uint32_t address) {
  uint4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

// cp.async.cg: 16 bytes from device to shared memory, of which `bytes` (0 or 16) are read and the
// rest is zero. Complete after CopyAsyncWaitAll, for the thread that copied.
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global, uint32_t bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(shared)),
               "l"(global), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void CopyAsyncWaitAll() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// stmatrix.x4.trans: four 8x8 tiles of 16-bit elements, transposed; lane i gives the address of row
// i % 8 of tile i / 8.
__device__ __forceinline__ void StoreMatrix4Trans(uint32_t address, uint4 v) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
      "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
      : "memory");
}

// The same untransposed.
__device__ __forceinline__ void StoreMatrix4(uint32_t address, uint4 v) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}

// atom.add.acq_rel.gpu: what the thread has written or seen (behind a barrier, its CTA) is visible
// to whoever adds later, and the other way round. Lighter than __threadfence() on both sides.
template <class Number>  // of 32 bits
__device__ __forceinline__ Number AtomicAddAcqRel(Number* global, Number x) {
  Number before;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(global), "r"(x)
               : "memory");
  return before;
}

// cp.async.mbarrier.arrive.noinc: arrives once this thread's copies so far are there; one of the
// arrivals that the barrier was made with.
__device__ __forceinline__ void CopyAsyncArrive(Mbarrier* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(SharedAddress(barrier))
               : "memory");
}

}  // namespace fireq::sm90
