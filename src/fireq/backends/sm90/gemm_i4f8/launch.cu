#include "fireq/backends/sm90/gemm_i4f8/launch.h"

#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>

#include "fireq/backends/sm90/gemm_i4f8/block_kernel.cuh"
#include "fireq/backends/sm90/gemm_i4f8/chain_kernel.cuh"
#include "fireq/backends/sm90/gemm_i4f8/launch.cuh"
#include "fireq/base/error.h"

namespace fireq::sm90 {
namespace {

constexpr int kCount = static_cast<int>(kGemmVariants.size());

template <int... kVariants>
GemmInstance Dispatch(int variant, GemmEpilogue epilogue,
                      std::integer_sequence<int, kVariants...>) {
  GemmInstance instance{};
  ((variant == kVariants ? void(instance = GetInstance<kVariants>(epilogue)) : void()), ...);
  return instance;
}

bool Aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

void CheckArgs(const GemmPlan& plan, const GemmI4F8Args& a) {
  const GemmVariant& v = plan.kernel();
  const int64_t super_blocks = CeilDiv<int64_t>(a.layout.row_blocks(), v.row_blocks);
  const int64_t tiles = CeilDiv<int64_t>(a.layout.row_blocks(), v.tile_row_blocks()) *
                        CeilDiv<int64_t>(a.m, v.tokens);
  const bool wide = v.kernel == GemmKernel::kWide;
  FIREQ_CHECK(plan.super_blocks == super_blocks && plan.tiles == tiles &&
                  plan.units == GemmUnits(v, a.layout.k),
              kInvalidArgument, "gemm_i4f8: the plan (", plan.why, ") is not for m ", a.m, ", n ",
              a.layout.n, ", k ", a.layout.k);
  const bool tokens =
      v.resident_groups > 0 ? a.bf16_x != nullptr : a.x && a.x_scales && (wide || a.x_sums);
  const bool sends = a.epilogue == GemmEpilogue::kSend;
  FIREQ_CHECK(a.tiles && a.row_scales && (sends ? a.end != nullptr : a.y != nullptr) && tokens &&
                  (a.epilogue != GemmEpilogue::kResidual || a.residual),
              kInvalidArgument, "gemm_i4f8: a null pointer");
  FIREQ_CHECK(!sends || (v.sends() && a.out == OutType::kBf16 &&
                         RanksOwnRows(a.end->layout, a.m, a.layout.n)),
              kInvalidArgument, "gemm_i4f8: ", v.name, " sends no ", a.m, " x ", a.layout.n);
  FIREQ_CHECK(!plan.cuts_tiles() || a.workspace, kInvalidArgument, "gemm_i4f8: the plan (",
              plan.why, ") needs a workspace");
  FIREQ_CHECK(v.resident_groups == 0 ||
                  (a.m == 1 && a.layout.k % kGroup == 0 && a.layout.groups() <= v.resident_groups),
              kInvalidArgument, "gemm_i4f8: ", v.name, " for m ", a.m, ", k ", a.layout.k);
  FIREQ_CHECK(Aligned(a.bf16_x) && Aligned(a.norm) && Aligned(a.workspace) && Aligned(a.tiles) &&
                  Aligned(a.row_scales) && Aligned(a.bias) && Aligned(a.x) && Aligned(a.residual) &&
                  Aligned(a.y),
              kInvalidArgument, "gemm_i4f8: a pointer is not 16-byte aligned");
}

// The workspace: counts of cut tiles, counts of token tiles that are ready; parts that go word by
// word, all zero between launches; then other sums, of the largest tile a CTA, in 16 bits.
constexpr int64_t kCountBytes = 4096;
constexpr int64_t kWordBytes = int64_t{kWideMaxCtas} * kWideWordBytes;
constexpr int64_t kReadyCounts = kCountBytes / 2 / sizeof(uint32_t);
// With two token tiles each band of them is one: reading all weights twice costs more than is
// gained.
constexpr int64_t kLeastReadyTiles = 3;
constexpr int64_t kMaxPartialBytes = int64_t{256} * 128 * sizeof(uint16_t);

GemmI4F8Params MakeParams(const GemmPlan& plan, const GemmI4F8Args& a) {
  GemmI4F8Params p{};
  p.row_scales = a.row_scales;
  p.bias = a.bias;
  p.x_sums = a.x_sums;
  p.x_scales = a.x_scales;
  p.residual = static_cast<const uint16_t*>(a.residual);
  p.y = static_cast<uint16_t*>(a.y);
  p.ldy = a.epilogue == GemmEpilogue::kSiluMul ? a.layout.n / 2 : a.layout.n;
  p.m = static_cast<int>(a.m);
  p.row_blocks = static_cast<int>(a.layout.row_blocks());
  p.groups = static_cast<int>(a.layout.groups());
  p.super_blocks = plan.super_blocks;
  p.tiles = plan.tiles;
  p.units = Divisor(plan.units);
  p.ranks = Divisor(plan.cluster);
  p.tiles_per_cluster = plan.tiles_per_cluster;
  p.end_units = plan.end_units;
  p.helpers = Divisor(std::max(plan.helpers, 1));
  const GemmVariant& v = plan.kernel();
  if (v.kernel == GemmKernel::kWide) {
    const auto token_tiles = static_cast<int>(CeilDiv<int64_t>(a.m, v.tokens));
    p.ready = RowsReadyEarly(plan, a).counts;
    p.order = WideTileOrder(plan.tiles / token_tiles, token_tiles,
                            p.ready ? TokenTilesOfEarlyBand(token_tiles) : kTokenTilesPerBand);
    p.whole_tiles = plan.whole_tiles;
    p.waves = plan.whole_tiles / plan.num_clusters;
    p.wave_rest = plan.whole_tiles % plan.num_clusters;
    p.parts = Divisor(plan.parts);
    p.deal = plan.deal;
    p.part_unit = WidePartUnit(a.layout.k);
    p.parts_a_unit = 1.0f / p.part_unit;
  }
  p.counts = static_cast<uint32_t*>(a.workspace);
  const bool by_word = v.kernel == GemmKernel::kWide && WidePartsByWord(v.groups);
  p.partials = reinterpret_cast<uint4*>(static_cast<uint8_t*>(a.workspace) + kCountBytes +
                                        (by_word ? 0 : kWordBytes));
  p.out = a.out;
  p.bf16_x = a.bf16_x;
  p.norm = a.norm;
  p.norm_eps = a.norm_eps;
  if (a.end != nullptr) {
    p.end = *a.end;
    p.owners = Divisor(a.end->layout.ranks);
  }
  return p;
}

// x as [group][token][128 columns], `box_groups` at once; for the wide kernel, and where the last
// group is short, as [1][token][k].
CUtensorMap MakeTokenMap(const GemmI4F8Args& a, int box_tokens, int box_groups, bool wide) {
  const auto k = static_cast<uint64_t>(a.layout.k), m = static_cast<uint64_t>(a.m);
  const std::array<uint32_t, 3> box{kGroup, static_cast<uint32_t>(box_tokens),
                                    static_cast<uint32_t>(box_groups)};
  const bool by_group = k % kGroup == 0 && !wide;
  const std::array<uint64_t, 3> sizes{by_group ? kGroup : k, m, by_group ? k / kGroup : 1};
  const std::array<uint64_t, 2> strides{k, by_group ? kGroup : k};
  const size_t rank = wide ? 2 : 3;
  return MakeTensorMap(CU_TENSOR_MAP_DATA_TYPE_UINT8, a.x, std::span(sizes).first(rank),
                       std::span(strides).first(rank - 1), std::span(box).first(rank),
                       CU_TENSOR_MAP_SWIZZLE_128B);
}

// The weight as [row block][group][33 lines of a tile][128 bytes].
CUtensorMap MakeWeightMap(const GemmI4F8Args& a, const GemmVariant& v) {
  constexpr uint32_t kLine = 128;
  const auto groups = static_cast<uint64_t>(a.layout.groups());
  const std::array<uint64_t, 4> sizes{kLine, kTileBytes / kLine, groups,
                                      static_cast<uint64_t>(a.layout.row_blocks())};
  const std::array<uint64_t, 3> strides{kLine, kTileBytes, groups * kTileBytes};
  const std::array<uint32_t, 4> box{kLine, kTileBytes / kLine, static_cast<uint32_t>(v.groups),
                                    static_cast<uint32_t>(v.row_blocks)};
  return MakeTensorMap(CU_TENSOR_MAP_DATA_TYPE_UINT8, a.tiles, sizes, strides, box,
                       CU_TENSOR_MAP_SWIZZLE_NONE);
}

// `y` or what is added to it, in the boxes in which the wide kernel copies a warpgroup's outputs.
CUtensorMap MakeOutputMap(const GemmI4F8Args& a, const void* y) {
  const bool halves = a.epilogue == GemmEpilogue::kSiluMul;
  const auto n = static_cast<uint64_t>(halves ? a.layout.n / 2 : a.layout.n);
  const uint32_t box_rows = halves ? kTileRows / 2 : kTileRows;
  const std::array<uint64_t, 2> sizes{n, static_cast<uint64_t>(a.m)};
  const std::array<uint64_t, 1> strides{2 * n};
  const std::array<uint32_t, 2> box{box_rows, kWideOutTokens};
  return MakeTensorMap(CU_TENSOR_MAP_DATA_TYPE_UINT16, y, sizes, strides, box,
                       halves ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B);
}

GemmMaps MakeMaps(const GemmI4F8Args& a, const GemmVariant& v, int box_tokens) {
  const bool wide = v.kernel == GemmKernel::kWide;
  GemmMaps maps{};
  maps.weights = MakeWeightMap(a, v);
  if (v.resident_groups == 0)
    maps.tokens = MakeTokenMap(a, box_tokens, a.layout.k % kGroup == 0 ? v.groups : 1, wide);
  if (wide && a.m % box_tokens != 0)
    maps.last_tokens = MakeTokenMap(a, static_cast<int>(a.m % box_tokens), 1, wide);
  if (wide) maps.outputs = MakeOutputMap(a, a.y);
  if (wide && a.epilogue == GemmEpilogue::kResidual) maps.residual = MakeOutputMap(a, a.residual);
  return maps;
}

template <class Instance>
cudaLaunchConfig_t MakeConfig(const GemmPlan& plan, const Instance& instance,
                              std::array<cudaLaunchAttribute, 2>& attributes) {
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {static_cast<unsigned>(plan.cluster), 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(plan.num_clusters * plan.cluster));
  config.blockDim = dim3(static_cast<unsigned>(instance.threads));
  config.dynamicSmemBytes = static_cast<size_t>(instance.shared_bytes);
  config.attrs = attributes.data();
  config.numAttrs = attributes.size();
  return config;
}

template <class Instance>
void AllowSharedMemory(const Instance& instance) {
  FIREQ_CUDA(cudaFuncSetAttribute(reinterpret_cast<const void*>(instance.function),
                                  cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  instance.shared_bytes));
}

}  // namespace

void LaunchGemmI4F8(const GemmPlan& plan, const GemmI4F8Args& args, cudaStream_t stream) {
  if (args.m == 0) return;
  CheckArgs(plan, args);
  const GemmInstance instance =
      Dispatch(plan.variant, args.epilogue, std::make_integer_sequence<int, kCount>());
  AllowSharedMemory(instance);
  std::array<cudaLaunchAttribute, 2> attributes{};
  cudaLaunchConfig_t config = MakeConfig(plan, instance, attributes);
  config.stream = stream;
  const GemmVariant& v = plan.kernel();
  GemmI4F8Params params = MakeParams(plan, args);
  params.x_box_groups = args.layout.k % kGroup == 0 ? v.groups : 0;
  CheckCuda(cudaLaunchKernelEx(&config, instance.function, params,
                               MakeMaps(args, v, instance.box_tokens)),
            v.name);
}

bool FitsGemmChain(const GemmI4F8Args& args, size_t place) {
  const auto fits = [&]<class... Links>(std::type_identity<std::tuple<Links...>>) {
    size_t i = 0;
    return ((i++ == place && args.epilogue == Links::kKind &&
             args.layout.groups() <= Links::kGroups && (args.norm != nullptr) == Links::kNorm) ||
            ...);
  };
  return args.m == 1 && args.bf16_x != nullptr && args.layout.k % kGroup == 0 &&
         fits(std::type_identity<ChainLinks>());
}

void LaunchGemmChain(std::span<const GemmI4F8Args> gemms, const GemmDevice& device,
                     uint32_t* meetings, cudaStream_t stream) {
  FIREQ_CHECK(!gemms.empty() && gemms.size() <= kMaxGemmChain && meetings != nullptr,
              kInvalidArgument, "gemm_i4f8: a chain of ", gemms.size());
  GemmChainParams params{};
  GemmChainMaps maps{};
  GemmPlan widest;
  for (const GemmI4F8Args& args : gemms) {
    const GemmPlan plan = MakeChainGemmPlan({args.m, args.layout.n, args.layout.k}, device);
    CheckArgs(plan, args);
    const auto i = static_cast<size_t>(params.count++);
    FIREQ_CHECK(FitsGemmChain(args, i), kInvalidArgument, "gemm_i4f8: link ", i, " of a chain");
    params.gemm[i] = MakeParams(plan, args);
    GemmVariant piece = plan.kernel();
    piece.groups /= kChainPieces;
    maps.steps[i] = MakeWeightMap(args, plan.kernel());
    maps.pieces[i] = MakeWeightMap(args, piece);
    if (plan.num_clusters > widest.num_clusters) widest = plan;
  }
  params.meetings = meetings;
  const GemmChainInstance instance = GetChainInstance();
  AllowSharedMemory(instance);
  std::array<cudaLaunchAttribute, 2> attributes{};
  cudaLaunchConfig_t config = MakeConfig(widest, instance, attributes);
  config.stream = stream;
  CheckCuda(cudaLaunchKernelEx(&config, instance.function, params, maps), "gemm_i4f8 chain");
}

namespace {

// What BlockExchangeBytes are for.
struct BlockExchange {
  uint32_t* turn;
  uint32_t* words;
  uint4* parts;
  explicit BlockExchange(void* memory)
      : turn(static_cast<uint32_t*>(memory)),
        words(turn + 64),
        parts(reinterpret_cast<uint4*>(words + 2 * kBlockWords)) {}
};

// Of a token.
int64_t NumOutputs(const GemmI4F8Args& args) {
  return args.epilogue == GemmEpilogue::kSiluMul ? args.layout.n / 2 : args.layout.n;
}

}  // namespace

int64_t BlockExchangeBytes(const GemmDevice& device) {
  const int64_t ctas = int64_t{kChainCluster} * BlockClusters(device);
  return (64 + 2 * kBlockWords) * 4 + ctas * kBlockSlots * kBlockMostItems * 32;
}

bool FitsBlockLink(const GemmI4F8Args& args, int place) {
  return FitsGemmChain(args, static_cast<size_t>(place - 1)) &&
         BlockLinkAddsToItsOwn(place, args.layout.k) && BlockLinkHasWords(place, NumOutputs(args));
}

bool ReadsBlockLink(const GemmI4F8Args& args, const BlockLink& before) {
  if (before.place == kAttentionPlace)
    return args.bf16_x == reinterpret_cast<const uint16_t*>(before.out) &&
           args.layout.k == int64_t{before.rope.num_heads} * kBlockHeadDim;
  return args.bf16_x == before.gemm.y && args.layout.k == NumOutputs(before.gemm);
}

void LaunchBlockChain(std::span<const BlockLink> links, const GemmDevice& device, bool goes_on,
                      uint32_t* meetings, void* memory, cudaStream_t stream) {
  FIREQ_CHECK(!links.empty() && meetings != nullptr && memory != nullptr, kInvalidArgument,
              "gemm_i4f8: blocks of ", links.size(), " links");
  const auto params = std::make_unique<BlockChainParams>();
  GemmPlan grid;
  grid.cluster = kChainCluster;
  grid.num_clusters = BlockClusters(device);
  BlockHeads& heads = params->heads;
  params->begin = links.front().place;
  params->end = links.back().place + 1;
  params->last_to_words = goes_on;
  const BlockExchange exchange(memory);
  params->words = exchange.words;
  params->turn = exchange.turn;
  heads.parts = exchange.parts;
  int b = 0;
  int expected = links.front().place;
  for (size_t l = 0; l < links.size(); ++l) {
    const BlockLink& link = links[l];
    FIREQ_CHECK(link.place == expected, kInvalidArgument, "gemm_i4f8: link ", link.place, " for ",
                expected);
    if (link.place == kAttentionPlace) {
      if (l > 0) ++b;
      FIREQ_CHECK(b < kMaxBlocks, kInvalidArgument, "gemm_i4f8: too many blocks");
      const RopeKvWriteParams& rope = link.rope;
      params->block[b].attention = {rope, link.out};
      heads.query_start = rope.query_start;
      heads.context_len = rope.context_len;
      heads.kv_heads = rope.kv_heads;
      heads.group = rope.num_heads / rope.kv_heads;
      const auto spread =
          SpreadBlockHeads({rope.num_heads, rope.kv_heads, kBlockHeadDim, rope.max_pages}, device);
      FIREQ_CHECK(spread, kInvalidArgument, "gemm_i4f8: blocks of ", rope.num_heads, " heads over ",
                  rope.kv_heads, " KV heads, ", rope.max_pages, " pages");
      heads.ctas = spread->ctas;
      heads.column_shift = spread->column_shift;
    } else {
      const auto i = static_cast<size_t>(link.place - 1);
      const GemmPlan plan =
          MakeChainGemmPlan({link.gemm.m, link.gemm.layout.n, link.gemm.layout.k}, device);
      CheckArgs(plan, link.gemm);
      FIREQ_CHECK(FitsBlockLink(link.gemm, link.place) &&
                      (l == 0 || ReadsBlockLink(link.gemm, links[l - 1])),
                  kInvalidArgument, "gemm_i4f8: link ", link.place, " of a block");
      params->block[b].gemm[i] = MakeParams(plan, link.gemm);
      GemmVariant piece = plan.kernel();
      piece.groups /= kChainPieces;
      params->maps[b].steps[i] = MakeWeightMap(link.gemm, plan.kernel());
      params->maps[b].pieces[i] = MakeWeightMap(link.gemm, piece);
    }
    expected = (expected + 1) % kBlockLinks;
  }
  params->count = b + 1;
  params->meetings = meetings;
  const BlockChainInstance instance = GetBlockChainInstance();
  AllowSharedMemory(instance);
  std::array<cudaLaunchAttribute, 2> attributes{};
  cudaLaunchConfig_t config = MakeConfig(grid, instance, attributes);
  config.stream = stream;
  CheckCuda(cudaLaunchKernelEx(&config, instance.function, *params), "gemm_i4f8 blocks");
  // Words that nobody has read.
  if (params->end == kOPlace)
    FIREQ_CUDA(cudaMemsetAsync(exchange.words, 0, int64_t{2} * kBlockWords * 4, stream));
}

RowsReady RowsReadyEarly(const GemmPlan& plan, const GemmI4F8Args& args) {
  const GemmVariant& v = plan.kernel();
  const auto token_tiles = static_cast<int>(CeilDiv<int64_t>(args.m, v.tokens));
  if (!args.announces || args.workspace == nullptr || v.kernel != GemmKernel::kWide ||
      plan.tiles <= plan.num_clusters || token_tiles < kLeastReadyTiles ||
      token_tiles > kReadyCounts)
    return {};
  // Tiles that are cut, which are not counted, must be of the last token tile.
  const int row_pairs = plan.tiles / token_tiles;
  const bool last_alone = (token_tiles - 1) % TokenTilesOfEarlyBand(token_tiles) == 0;
  if (plan.tiles - plan.whole_tiles > (last_alone ? row_pairs : 0)) return {};
  return {.counts = static_cast<uint32_t*>(args.workspace) + kReadyCounts,
          .full = static_cast<uint32_t>(row_pairs * plan.cluster),
          .rows = v.tokens,
          .before = int64_t{token_tiles - 1} * v.tokens};
}

int64_t GemmWorkspaceBytes(const GemmDevice& device) {
  return kCountBytes + kWordBytes + device.num_sms * kMaxPartialBytes;
}

GemmDevice QueryGemmDevice() {
  FIREQ_CHECK(HasHopper(), kUnsupported, "gemm_i4f8 needs a GPU of compute capability 9.0");
  GemmDevice device;
  device.num_sms = NumSms();
  const GemmInstance instance = GetInstance<0>(GemmEpilogue::kPlain);
  AllowSharedMemory(instance);
  for (int cluster = 1; cluster <= 8; ++cluster) {
    GemmPlan plan;
    plan.cluster = cluster;
    plan.num_clusters = device.num_sms;
    std::array<cudaLaunchAttribute, 2> attributes{};
    cudaLaunchConfig_t config = MakeConfig(plan, instance, attributes);
    config.numAttrs = 1;
    FIREQ_CUDA(cudaOccupancyMaxActiveClusters(&device.max_clusters[static_cast<size_t>(cluster)],
                                              instance.function, &config));
  }
  return device;
}

}  // namespace fireq::sm90
