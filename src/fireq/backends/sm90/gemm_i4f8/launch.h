// y[M, N'] = epilogue(x[M, K] . w[N, K]^T) on the current device: the one door to the kernels.
#pragma once

#include <cuda_runtime_api.h>

#include <span>

#include "fireq/backends/sm90/gemm_i4f8/block_params.h"
#include "fireq/backends/sm90/gemm_i4f8/params.h"
#include "fireq/backends/sm90/gemm_i4f8/plan.h"
#include "fireq/backends/sm90/runtime/rows_ready.h"
#include "fireq/formats/weight_i4_tile.h"

namespace fireq::sm90 {

enum class GemmEpilogue : uint8_t {
  kPlain,     // y = out(sum + bias)
  kResidual,  // y = out(residual + out(sum + bias)); y may be the residual
  kSiluMul,   // y[m, n/2] = out(silu(gate) up) of an interleaved weight (RowOrder::kGateUp)
  kSend,      // BF16 out(sum + bias) into the box of each token's owner (variants that send())
};

// All pointers: device memory, 16-byte aligned.
struct GemmI4F8Args {
  WeightTileLayout layout;            // of the packed weight, n x k
  const uint8_t* tiles = nullptr;     // layout.size_bytes()
  const float* row_scales = nullptr;  // [n] 1/t
  const float* bias = nullptr;        // [n] in packed order, or null
  int64_t m = 0;                      // tokens; 0 is allowed and does nothing
  const uint8_t* x = nullptr;         // E4M3 [m, k], row-major
  const float* x_scales = nullptr;    // [m]
  const float* x_sums = nullptr;      // [m, ceil(k/128)] sums of x's codes (read by *exact* only)
  // Instead of x, its scales and sums, where the plan is MakeResidentGemmPlan's: the BF16 values
  // [m, k] that are to be quantised, and what normalises them before, if anything does (read early,
  // as weights are).
  const uint16_t* bf16_x = nullptr;
  const float* norm = nullptr;  // [k]
  float norm_eps = 0.0f;
  GemmEpilogue epilogue = GemmEpilogue::kPlain;
  OutType out = OutType::kBf16;
  const void* residual = nullptr;  // [m, n] of `out`'s type
  void* y = nullptr;               // [m, n] (kSiluMul: [m, n/2]) of `out`'s type; not for kSend
  // For kSend: a part of the next call of peer_sum/launch.h, which is LaunchOwnedRows* with
  // PartsAt::kBoxes right behind this kernel.
  const PeerEnd* end = nullptr;
  // GemmWorkspaceBytes(), all zero before its first use; may be null for plans that cut no tiles.
  // Calls that may run at once need one each; those that cut tiles may not run at once.
  void* workspace = nullptr;
  // The kernel behind this one takes RowsReadyEarly() of the same plan and arguments.
  bool announces = false;
};

// The rows of y that a launch says are ready before it has ended, by counts in the workspace:
// whoever is next on the stream reads them as RowsReady has it. None (`before` = 0) if all rows are
// ready at the end only: tiles that are cut, one wave of tiles, few tiles of tokens, or not asked
// for.
RowsReady RowsReadyEarly(const GemmPlan& plan, const GemmI4F8Args& args);

// Asynchronous on `stream`, no allocation, may be captured. Programmatic dependent launch: weights
// are read before the kernels ahead have ended, so nothing queued ahead may still be writing them.
// CTAs of a plan that cuts tiles wait for each other: no other such kernel may run meanwhile on any
// stream of the GPU, or both may wait for ever. What `args` names must live until it has run.
// Errors: kInvalidArgument (null or misaligned pointers, a plan made for another shape), kCuda.
void LaunchGemmI4F8(const GemmPlan& plan, const GemmI4F8Args& args, cudaStream_t stream);

// The linears of one token between a block's attention and the next block's, each of which may read
// what those in front of it write, in one launch: weights are on their way before the linear in
// front has ended. O, gate and up, down, QKV, or as many of the first of them as there are, with
// `bf16_x` and MakeChainGemmPlan's plan. The bits are those of one LaunchGemmI4F8 after another
// with these plans, and what is said of plans that cut tiles goes for it. `meetings`: one count,
// zero before its first use. Errors as of LaunchGemmI4F8; kInvalidArgument where !FitsGemmChain.
inline constexpr size_t kMaxGemmChain = 4;
bool FitsGemmChain(const GemmI4F8Args& args, size_t place);
void LaunchGemmChain(std::span<const GemmI4F8Args> gemms, const GemmDevice& device,
                     uint32_t* meetings, cudaStream_t stream);

// The same of several blocks in a row, with attention of one token of one sequence between QKV and
// o as RopeKvWrite and decode attention have it (but for the order of its sums). `qkv` and `q` of
// `rope` are not read: they, and what o reads, go through `exchange`.
struct BlockLink {
  int place = kAttentionPlace;  // in the block
  GemmI4F8Args gemm;
  RopeKvWriteParams rope;
  bf16_t* out = nullptr;  // attention's
};
bool FitsBlockLink(const GemmI4F8Args& args, int place);  // a linear
// Whether `args` reads what `before` makes, which is all that a link may read.
bool ReadsBlockLink(const GemmI4F8Args& args, const BlockLink& before);
// Of words, all zero before their first use.
int64_t BlockExchangeBytes(const GemmDevice& device);
// Links in the order of a model, of which the first is QKV or attention, each behind the one that
// it reads; no more than kMaxBlocks blocks. `goes_on`: the next launch begins with the attention
// behind this one's last QKV.
void LaunchBlockChain(std::span<const BlockLink> links, const GemmDevice& device, bool goes_on,
                      uint32_t* meetings, void* exchange, cudaStream_t stream);

int64_t GemmWorkspaceBytes(const GemmDevice& device);

// What the planner must know of the current device. Throws kCuda, kUnsupported unless it is sm_90.
GemmDevice QueryGemmDevice();

}  // namespace fireq::sm90
