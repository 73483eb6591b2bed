#include <algorithm>
#include <array>

#include "fireq/backends/sm90/gemm_bf16/kernel.cuh"
#include "fireq/backends/sm90/gemm_bf16/launch.h"
#include "fireq/backends/sm90/peer_sum/launch.h"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/backends/sm90/runtime/programmatic_launch.h"
#include "fireq/backends/sm90/runtime/tensor_map.h"
#include "fireq/base/error.h"
#include "fireq/base/math.h"

namespace fireq::sm90 {
namespace {

using Few = GemmBf16Config<1, 1, 1, 4, 6>;  // up to 64 tokens
// The same where a CTA has no more than a unit a warpgroup, as in a rank's part of a vocabulary:
// tokens alone for each CTA would be as many bytes of the L2's as the weight.
using FewNarrow = GemmBf16Config<1, 1, 2, 8, 18, 1>;
using Some = GemmBf16Config<2, 1, 2, 4, 5>;  // 128
using Most = GemmBf16Config<2, 2, 2, 4, 6>;  // 256

CUtensorMap MakeMap(const bf16_t* values, int64_t rows, int64_t k, uint32_t box_rows) {
  constexpr uint32_t kColumns = Few::kStepColumns;
  const std::array<uint64_t, 2> sizes{static_cast<uint64_t>(k), static_cast<uint64_t>(rows)};
  const std::array<uint64_t, 1> strides{2 * static_cast<uint64_t>(k)};
  const std::array<uint32_t, 2> box{kColumns, box_rows};
  return MakeTensorMap(CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, values, sizes, strides, box,
                       CU_TENSOR_MAP_SWIZZLE_128B);
}

// In any variant.
int Ctas() { return std::max(NumSms() / Most::kCluster, 1) * Most::kCluster; }
bool IsNarrow(int64_t n) { return n <= int64_t{Ctas()} * FewNarrow::kTileUnits * kUnitRows; }
int NumTops() { return Ctas() * Most::kWarpgroups; }

// Up to Config::kTokens tokens.
template <class Config>
void Launch(const GemmBf16Args& args, cudaStream_t stream) {
  const auto kernel = GemmBf16<Config>;
  FIREQ_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  Config::kSharedBytes));
  const int ctas = Ctas();
  GemmBf16Params p{};
  p.y = args.y;
  p.tops = args.largest == nullptr ? nullptr : static_cast<uint64_t*>(args.workspace);
  p.m = static_cast<int>(args.m);
  p.n = static_cast<int>(args.n);
  p.x_rows = AlignUp(CeilDiv(p.m, Config::kCluster), 8);
  p.steps = static_cast<int>(CeilDiv<int64_t>(args.k, Config::kStepColumns));
  p.units = CeilDiv(p.n, kUnitRows);
  p.units_each = p.units / ctas;
  p.more = p.units % ctas;
  p.tiles = CeilDiv(p.units_each + (p.more > 0 ? 1 : 0), Config::kTileUnits);
  const GemmBf16Maps maps{MakeMap(args.x, args.m, args.k, static_cast<uint32_t>(p.x_rows)),
                          MakeMap(args.w, args.n, args.k, kUnitRows)};
  std::array<cudaLaunchAttribute, 2> attributes{};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {Config::kCluster, 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(ctas);
  config.blockDim = Config::kThreads;
  config.dynamicSmemBytes = Config::kSharedBytes;
  config.stream = stream;
  config.attrs = attributes.data();
  config.numAttrs = attributes.size();
  FIREQ_CUDA(cudaLaunchKernelEx(&config, kernel, p, maps));
}

// A warp a row.
struct LargestParams {
  const uint64_t* tops;
  int num_tops;
  int rows;
  int32_t* largest;
};
constexpr int kLargestWarps = 8;
__global__ void __launch_bounds__(32 * kLargestWarps)
    LargestOfTops(const __grid_constant__ LargestParams p) {
  GridDependencyLaunch();
  const int row = static_cast<int>(blockIdx.x) * kLargestWarps + static_cast<int>(threadIdx.x) / 32;
  if (row >= p.rows) return;
  GridDependencyWait();
  const uint64_t best = FirstOfRanks(p.tops + row * p.num_tops, p.num_tops);
  if (threadIdx.x % 32 == 0) p.largest[row] = best == 0 ? -1 : IdOfRank(best);
}

void LaunchLargest(const GemmBf16Args& args, cudaStream_t stream) {
  if (args.end != nullptr)
    return LaunchPeerLargest({*args.end, static_cast<const uint64_t*>(args.workspace), NumTops(),
                              static_cast<int>(args.m), args.first, args.largest},
                             stream);
  const LargestParams params{static_cast<const uint64_t*>(args.workspace), NumTops(),
                             static_cast<int>(args.m), args.largest};
  const auto ctas = static_cast<unsigned>(CeilDiv<int64_t>(args.m, kLargestWarps));
  FIREQ_CUDA(LaunchProgrammatic(LargestOfTops, {.grid = ctas, .threads = 32 * kLargestWarps},
                                params, stream));
}

}  // namespace

int64_t GemmBf16WorkspaceBytes() {
  return int64_t{Most::kTokens} * NumTops() * static_cast<int64_t>(sizeof(uint64_t));
}

void LaunchGemmBf16(const GemmBf16Args& args, cudaStream_t stream) {
  FIREQ_CHECK(args.k > 0 && args.k % 8 == 0 && args.n > 0 && args.n <= 0x7FFFFFFF - 256,
              kInvalidArgument, "gemm_bf16: n ", args.n, ", k ", args.k);
  FIREQ_CHECK(args.largest == nullptr || args.workspace != nullptr, kInvalidArgument,
              "gemm_bf16: the largest without a workspace");
  for (int64_t begin = 0; begin < args.m; begin += Most::kTokens) {
    GemmBf16Args part = args;
    part.m = std::min<int64_t>(args.m - begin, Most::kTokens);
    part.x += begin * args.k;
    if (part.y != nullptr) part.y += begin * args.n;
    if (part.largest != nullptr) part.largest += begin;
    if (part.m <= FewNarrow::kTokens && IsNarrow(part.n)) {
      Launch<FewNarrow>(part, stream);
    } else if (part.m <= Few::kTokens) {
      Launch<Few>(part, stream);
    } else if (part.m <= Some::kTokens) {
      Launch<Some>(part, stream);
    } else {
      Launch<Most>(part, stream);
    }
    if (part.largest != nullptr) LaunchLargest(part, stream);
  }
}

}  // namespace fireq::sm90
