// Blocks of a model on one token in one launch: attention over a sequence's cache as a link between
// the linears of chain_kernel.cuh. What a link makes goes to the next one word by word (words.cuh):
// nobody waits for a count, nor for a kernel's start. Words are taken turns with, by even and odd
// blocks. Those that all have read are made zero by a warp that meets its like of the other CTAs
// once a block, while the others compute.
#pragma once

#include <array>
#include <tuple>

#include "fireq/backends/sm90/gemm_i4f8/block_attention.cuh"
#include "fireq/backends/sm90/gemm_i4f8/chain_kernel.cuh"

namespace fireq::sm90 {

// Of a block: attention, then the links of a chain. The first block begins with link `begin`, the
// last one ends before `end`.
inline constexpr int kBlockLinks = 1 + static_cast<int>(kMaxGemmChain);
struct BlockParams {
  std::array<GemmI4F8Params, kMaxGemmChain> gemm;
  BlockAttentionParams attention;
};
struct BlockMaps {
  std::array<CUtensorMap, kMaxGemmChain> steps, pieces;
};
struct BlockChainParams {
  std::array<BlockMaps, kMaxBlocks> maps;
  std::array<BlockParams, kMaxBlocks> block;
  BlockHeads heads;
  int count;
  int begin, end;
  uint32_t* words;     // of even blocks; those of odd ones follow
  bool last_to_words;  // the last link is QKV, whose words the next launch reads
  uint32_t* turn;      // blocks of the launches before: 0 or 1, if it was even
  uint32_t* meetings;

  __device__ __forceinline__ int First(int b) const { return b == 0 ? begin : 0; }
  // Of the launch. That of QKV alone belongs to the block before the first: -1.
  __device__ __forceinline__ uint32_t AttentionsBefore(int b) const {
    return static_cast<uint32_t>(begin == 0 ? b : b - 1);
  }
  // Of block `number`, counted over launches, as attention counts them.
  __device__ __forceinline__ uint32_t* WordsOf(uint32_t number) const {
    return words + (number & 1) * static_cast<uint32_t>(kBlockWords);
  }
  static __device__ __forceinline__ int Number(int b, int gemm) {
    return static_cast<int>(kMaxGemmChain) * b + gemm;
  }
  __device__ __forceinline__ int Last(int b) const { return b + 1 == count ? end : kBlockLinks; }
};
static_assert(kDownWords - kHiddenWords == kLongChainGroups * kGroup / 2 &&
              kBlockMostHeads * kBlockHeadDim == kShortChainGroups * kGroup);
static_assert(sizeof(BlockChainParams) <= 32764, "what a kernel may be told");

// What becomes of one token's sums of a tile: four neighbouring outputs a thread, of a few threads.
// As TileOutputs has it, but one code for all links: none is long enough for its instructions to be
// at hand twice. What is needed of memory is read when this is made.
template <class Config>
struct BlockOutputs {
  static constexpr int kRows = Config::kRowBlocks * kTileRows;
  const GemmI4F8Params& p;
  int place;  // of the link
  int row;    // of the tile's packed rows; negative: the thread has none
  int out_row, packed_row;
  float4 scale, up_scale;
  uint2 residual = {0, 0};
  uint32_t* words;  // of the link, or null: as well as memory

  __device__ __forceinline__ bool Halves() const { return place == kGateUpPlace; }
  __device__ __forceinline__ BlockOutputs(const GemmI4F8Params& params, int link, int tile,
                                          bool finishes, uint32_t* to)
      : p(params), place(link), row(-1), words(to) {
    const int out_rows = Halves() ? kRows / 2 : kRows;
    const int local = 4 * static_cast<int>(threadIdx.x);
    out_row = tile * out_rows + local;
    if (!finishes || local >= out_rows || out_row >= p.ldy) return;
    row = Halves() ? local / 8 * 16 + local % 8 : local;
    packed_row = tile * kRows + row;
    scale = __ldg(reinterpret_cast<const float4*>(p.row_scales + packed_row));
    if (Halves()) up_scale = __ldg(reinterpret_cast<const float4*>(p.row_scales + packed_row + 8));
    if (place == kOPlace || place == kDownPlace) residual = ResidualEpilogue::Read(p, out_row);
  }

  __device__ __forceinline__ float4 Sum(int at, const float* front, const float* rest) const {
    float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
    for (const float* part : {front, rest}) {
      if (part == nullptr) continue;
#pragma unroll
      for (int g = 0; g < Config::kGroupSets; ++g) {
        const float4 x = *reinterpret_cast<const float4*>(part + PlaceOfSum<Config>(g, 0, at));
        sum = {sum.x + x.x, sum.y + x.y, sum.z + x.z, sum.w + x.w};
      }
    }
    return sum;
  }
  // Of one part, or two.
  __device__ __forceinline__ void Store(float x_scale, const float* front,
                                        const float* rest) const {
    if (row < 0) return;
    float4 v = ScaleAndBias(p, Sum(row, front, rest), scale, x_scale, packed_row);
    if (Halves())
      v = SiluMulEpilogue::Combine(
          v, ScaleAndBias(p, Sum(row + 8, front, rest), up_scale, x_scale, packed_row + 8));
    uint2 outputs = PlainEpilogue::Finish(p.out, v, {});
    if (place == kOPlace || place == kDownPlace)
      outputs = {ResidualEpilogue::Add(p.out, outputs.x, residual.x),
                 ResidualEpilogue::Add(p.out, outputs.y, residual.y)};
    if (words != nullptr)
      StoreRelaxed64(words + out_row / 2, {AsWord(outputs.x), AsWord(outputs.y)});
    *reinterpret_cast<uint2*>(p.y + out_row) = outputs;
  }
};

// Between those who compute and the warp that forgets words.
struct BlockMeeting {
  Mbarrier tokens_read;  // o's: a CTA has read all that comes before
  Mbarrier met;          // all CTAs have; what they had forgotten a block ago stays so
  uint32_t turn;
};

// One warp, of every CTA.
__device__ __forceinline__ void ForgetWords(const BlockChainParams& chain, BlockMeeting& meeting) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  constexpr uint32_t kAll = 0x80000000u;  // as GridMeeting has it
  GridDependencyWait();
  uint32_t number = LoadRelaxed(chain.turn);
  uint32_t before = LoadRelaxed(chain.meetings);
  uint32_t meetings = 0;
  const auto forget = [&](uint32_t* from, int count) {
    auto* vectors = reinterpret_cast<uint4*>(from);
    for (int i = static_cast<int>(blockIdx.x) + lane * static_cast<int>(gridDim.x); i < count / 4;
         i += 32 * static_cast<int>(gridDim.x))
      StoreRelaxed128(vectors + i, {0, 0, 0, 0});
  };
#pragma unroll 1
  for (int b = 0; b < chain.count; ++b) {
    if (chain.First(b) > kAttentionPlace) continue;
    if (chain.Last(b) > kOPlace) {
      if (lane == 0) {
        MbarrierWaitAsleep(&meeting.tokens_read, meetings & 1);
        AddRelease(chain.meetings, blockIdx.x == 0 ? kAll - (gridDim.x - 1) : 1u);
        while (((LoadAcquire(chain.meetings) ^ before) & kAll) == 0) __nanosleep(50);
        MbarrierArrive(&meeting.met);
      }
      before ^= kAll;
      ++meetings;
      __syncwarp();
      forget(chain.WordsOf(number) + kAttentionWords, kBlockWords - kAttentionWords);
      forget(chain.WordsOf(number ^ 1), kAttentionWords);
    }
    ++number;
  }
  // All have read it by the first meeting.
  if (blockIdx.x == 0 && lane == 0 && meetings > 0) *chain.turn = number & 1;
}

template <class Config>
struct BlockConsumer {
  static_assert(Config::kConsumerThreads == BlockAttention::kThreads);
  const BlockChainParams& chain;
  StreamShared<Config> shared;
  BlockAttentionShared& of_attention;
  BlockMeeting& meeting;
  ChainSignals& signals;
  RingPlace<Config::kStages> at{};
  uint32_t handover_parity = 0;

  __device__ __forceinline__ void Run() {
    GridDependencyWait();
    if (threadIdx.x == 0) meeting.turn = LoadRelaxed(chain.turn);
    NamedBarrierSync(1, Config::kConsumerThreads);
#pragma unroll 1
    for (int b = 0; b < chain.count; ++b) {
      const int to = chain.Last(b);
#pragma unroll 1
      for (int place = chain.First(b); place < to; ++place) {
        const uint32_t before = chain.AttentionsBefore(b);
        const uint32_t number = meeting.turn + before;  // of the block
        uint32_t* const words = chain.WordsOf(number);
        if (place == kAttentionPlace) {
          BlockAttention(chain.heads, of_attention)
              .Attend(chain.block[b].attention, chain.WordsOf(number ^ 1), words + kAttentionWords,
                      before & 1);
          continue;
        }
        const GemmI4F8Params& p = chain.block[b].gemm[place - 1];
        const bool works = ChainShare(p, Rank()).run.count > 0;
        MakeToken(p, place, works, b == 0 && place == chain.begin, words, before & 1);
        if (threadIdx.x == 0) {
          signals.tokens_made = BlockChainParams::Number(b, place - 1) + 1;
          if (place == kOPlace) MbarrierArrive(&meeting.tokens_read);
        }
        if (!works) continue;
        const bool to_words = place != kQkvPlace || b + 1 < chain.count || chain.last_to_words;
        Multiply(p, place, to_words ? words + WordsOf(place) : nullptr, before & 1);
      }
    }
  }

 private:
  static __device__ __forceinline__ int Rank() { return static_cast<int>(ClusterRank()); }
  // Words of what a link makes.
  static __device__ __forceinline__ int WordsOf(int place) {
    return place == kAttentionPlace ? kAttentionWords
           : place == kOPlace       ? kOWords
           : place == kGateUpPlace  ? kHiddenWords
           : place == kDownPlace    ? kDownWords
                                    : kQkvWords;
  }
  // `first`: of the launch.
  __device__ __forceinline__ void MakeToken(const GemmI4F8Params& p, int place, bool works,
                                            bool first, uint32_t* words, uint32_t parity) {
    constexpr int kGroups = kShortChainGroups;
    const ValuesOfWords values(
        first ? static_cast<const void*>(p.bf16_x) : words + WordsOf(place - 1), !first);
    // Only then are o's words, and all behind them, new ones.
    if (place == kGateUpPlace) MbarrierWait(&meeting.met, parity);
    if (place == kOPlace) {
      if (works) MakeResidentTokensOf<Config, kGroups>(values, p, NoNorm{}, shared.resident());
    } else if (place == kDownPlace) {
      if (works)
        MakeResidentTokensOf<Config, kLongChainGroups>(values, p, NoNorm{}, shared.resident());
    } else {
      using Row = typename ResidentShare<Config, kGroups>::TokenRow;
      const WeightsAtHand<Row> norm(p.norm, p.groups * kGroup);
      if (works) MakeResidentTokensOf<Config, kGroups>(values, p, norm, shared.resident());
    }
  }

  // As StreamSegments and StreamFinish have it, of a pair.
  __device__ __forceinline__ void Multiply(const GemmI4F8Params& p, int place, uint32_t* words,
                                           uint32_t parity) {
    const int rank = Rank();
    const ChainShare share(p, rank);
    if (share.Receives(rank) && threadIdx.x == 0)
      MbarrierArriveExpectTx(shared.handed_over(), Config::kPartialBytes);
    StreamConsumer<Config> consumer = MakeConsumer(p, shared);
    consumer.at = at;
    float total[Config::kTokens / 2];
#pragma unroll 1
    for (int i = 0; i < share.run.count; ++i) {
      const Segment segment = share.run.At(i);
      const bool front = segment.begin == 0, whole = front && segment.end == p.units.value;
      const BlockOutputs<Config> outputs(p, place, share.first_tile + segment.tile, front, words);
      consumer.Accumulate(total, segment);
      consumer.StorePartial(total, front ? shared.partial(false) : shared.handover());
      if (!front) FenceProxyAsync();  // sums written -> sums copied
      if (front && !whole) {
        MbarrierWait(shared.handed_over(), handover_parity);
        handover_parity ^= 1;
      }
      NamedBarrierSync(1, Config::kConsumerThreads);  // sums written -> sums read
      if (front) {
        if (place == kOPlace) MbarrierWait(&meeting.met, parity);  // its words are to be written
        outputs.Store(shared.resident().scales()[0], shared.partial(false),
                      whole ? nullptr : shared.handover());
      } else if (threadIdx.x == 0) {
        BulkSendToCluster(shared.handover(), shared.handover(), Config::kPartialBytes,
                          shared.handed_over(), 0);
      }
      if (whole) NamedBarrierSync(1, Config::kConsumerThreads);  // read -> next sums written
    }
    at = consumer.at;
  }
};

template <class Config>
inline constexpr int kBlockAttentionOffset = AlignUp(Config::kSharedBytes, 128);
template <class Config>
inline constexpr int kBlockSharedBytes = kBlockAttentionOffset<Config> +
                                         static_cast<int>(sizeof(BlockAttentionShared));

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    GemmI4F8Blocks(const __grid_constant__ BlockChainParams chain) {
  static_assert(Config::kResident && Config::kPairs && Config::kMovesRegisters);
  // 1 KB: signals, beside an array aligned to as much.
  static_assert(kBlockSharedBytes<Config> <= kSharedBytesPerCta - 1024);
  extern __shared__ __align__(1024) uint8_t dynamic_shared[];
  const StreamShared<Config> shared{dynamic_shared + Config::kResidentBytes};
  auto& of_attention =
      *reinterpret_cast<BlockAttentionShared*>(dynamic_shared + kBlockAttentionOffset<Config>);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  constexpr int kWeightsWarp = Config::kConsumerThreads / 32;
  constexpr int kScalesWarp = kWeightsWarp + 1, kPagesWarp = kWeightsWarp + 2,
                kForgetfulWarp = kWeightsWarp + 3;
  const int rank = static_cast<int>(ClusterRank());
  __shared__ ChainSignals signals;
  __shared__ BlockMeeting block_meeting;
  if (warp == kWeightsWarp) {
    if (lane == 0) {
      MbarrierInit(&signals.piece, 1);
      signals.tokens_made = 0;
      for (int s = 0; s < Config::kStages; ++s) MbarrierInit(shared.full(s), 1);
      FenceMbarrierInit();
    }
  } else if (lane == 0) {
    shared.InitEmpty(warp);
    if (warp == 0) {
      MbarrierInit(shared.handed_over(), 1);
      MbarrierInit(&of_attention.full, 1);
      MbarrierInit(&of_attention.empty, 1);
      MbarrierInit(&block_meeting.tokens_read, 1);
      MbarrierInit(&block_meeting.met, 1);
    }
    FenceMbarrierInit();
  }
  if (warp == kPagesWarp && lane == 0) BlockAttention::Prepare(chain.heads, of_attention);
  if (warp < 8) {  // rows that are not there
    reinterpret_cast<uint4*>(of_attention.queries)[threadIdx.x % 128] = {0, 0, 0, 0};
    if (threadIdx.x < 8) of_attention.rows[threadIdx.x] = {0.0f, 0.0f};
  }
  __syncthreads();
  ClusterArriveRelaxed();  // this CTA's barrier is there -> the other may send
  GridDependencyLaunch();
  if (warp >= kWeightsWarp) {
    RegistersDecrease<Config::kProducerRegisters>();
    if (warp == kWeightsWarp && lane == 0) {
      RingPlace<Config::kStages> at{0, 1};
      uint32_t piece_parity = 0;
#pragma unroll 1
      for (int b = 0; b < chain.count; ++b) {
        const int to = chain.Last(b);
#pragma unroll 1
        for (int link = max(1, chain.First(b)); link < to; ++link) {
          const GemmI4F8Params& p = chain.block[b].gemm[link - 1];
          const ChainShare share(p, rank);
          ChainWeights<Config> weights{{p, shared, share.run, share.first_tile, at}, piece_parity};
          weights.CopyLink(chain.maps[b].steps[link - 1], chain.maps[b].pieces[link - 1],
                           BlockChainParams::Number(b, link - 1), signals);
          at = weights.at;
          piece_parity = weights.piece_parity;
        }
      }
    }
    if (warp == kScalesWarp) {
      for (int b = 0; b < chain.count; ++b) {
        // Not all of the chain's at once.
        while (signals.tokens_made < 4 * (b - 1)) __nanosleep(500);
        for (int link = max(1, chain.First(b)); link < chain.Last(b); ++link)
          PrefetchRowScales<Config>(chain.block[b].gemm[link - 1], rank);
      }
    }
    if (warp == kPagesWarp && lane == 0) {
      BlockAttention attention(chain.heads, of_attention);
#pragma unroll 1
      for (int b = 0; b < chain.count; ++b)
        if (chain.First(b) == 0)
          attention.CopyPages(chain.block[b].attention.rope, chain.AttentionsBefore(b));
    }
    if (warp == kForgetfulWarp) ForgetWords(chain, block_meeting);
    __syncwarp();
    ClusterWait();
  } else {
    ClusterWait();
    RegistersIncrease<Config::kConsumerRegisters>();
    BlockConsumer<Config> consumer{chain, shared, of_attention, block_meeting, signals};
    consumer.Run();
  }
  __syncwarp();
  ClusterArriveRelaxed();  // a CTA's shared memory stays until what it sent is there
  ClusterWait();
}

}  // namespace fireq::sm90
