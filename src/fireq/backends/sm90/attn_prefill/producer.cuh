// The producer warpgroup: copies packed pages in, unpacks INT4 to E4M3 into the swizzled tiles that
// wgmma reads, and turns scales into factors. Both get (q - z) 2^-9, exact in E4M3, in sign and
// magnitude: corrections z sum Q and sum P' z outside would lose the last bits to cancellation,
// because the tensor cores add with 13 bits below the largest product.
//
// Of a tile's two pages each belongs to a pair of warps, one of which does K and the other V, each
// with packed halves of pages of its own: no warp waits for another.
//
// What a warp knows of itself and of its piece of work is read anew each time: its registers are
// for loads in flight.
#pragma once

#include <cstdint>

#include "fireq/backends/sm90/attn_prefill/shared.cuh"
#include "fireq/backends/sm90/ptx/cvt.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/ptx/tma.cuh"

namespace fireq::sm90 {

template <int kDim>
class PrefillProducer {
 public:
  using Shared = PrefillShared<kDim>;
  static constexpr int kPageBytes = static_cast<int>(Shared::kLayout.head_bytes());
  static constexpr int kKeyChunks = kDim / 32;  // 16-byte runs of codes of one token

  __device__ PrefillProducer(const AttnPrefillParams& p, Shared& shared) : p_(p), shared_(shared) {}

  __device__ __forceinline__ void Run() {
    uint32_t index = 0;  // of a tile, of all that the CTA has
    uint32_t turn = 0;
    for (; NextWork(turn); ++turn) {
      Announce(turn);
      const int32_t tiles = Work().Tiles(Work().first_row, kPrefillRows, p_.group);
      index -= kPrefillRawPages;
      for (int32_t tile = -kPrefillRawPages; tile < tiles; ++tile, ++index) {
        if (tile >= 0) Unpack(index, tile);
        const int32_t next = tile + kPrefillRawPages;
        if (next < tiles) Load(PageNumber(next), index + kPrefillRawPages);
      }
    }
    const int buffer = static_cast<int>(turn & 1);
    MbarrierWait(&shared_.piece_empty[buffer], ~(turn >> 1) & 1);
    if (Lane() == 0) {
      if (Warp() == 0) shared_.piece[buffer].tiles = -1;
      MbarrierArrive(&shared_.piece_full[buffer]);
    }
  }

 private:
  static __device__ __forceinline__ uint32_t Thread() {
    uint32_t thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
  }
  static __device__ __forceinline__ uint32_t Lane() { return Thread() % 32; }
  static __device__ __forceinline__ uint32_t Warp() { return Thread() / 32 % 4; }
  __device__ __forceinline__ typename Shared::Work& Work() const { return shared_.work[Warp()]; }
  static __device__ __forceinline__ bool OfKeys() { return Warp() % 2 == 0; }
  // Of the sequence's pages, the warp's one of a tile.
  static __device__ __forceinline__ int32_t Page(int32_t tile) {
    return kPrefillPages * tile + static_cast<int32_t>(Warp() / 2);
  }

  // The CTA's piece of work `turn`; false when there is none.
  __device__ __forceinline__ bool NextWork(uint32_t turn) const {
    __syncwarp();  // the one before has been read
    PrefillWork work;
    if (!NextPrefillWork(p_, static_cast<int32_t>(turn), work)) return false;
    if (Lane() == 0) {
      static_cast<PrefillWork&>(Work()) = work;
      Work().context = work.prefix + work.rows / p_.group;
      Work().half = p_.pages + int64_t{work.kv_head} * kPageBytes +
                    (OfKeys() ? 0 : Shared::kLayout.v_offset());
    }
    __syncwarp();
    return true;
  }

  // What the consumers must know of the piece and its rows.
  __device__ __forceinline__ void Announce(uint32_t turn) {
    const int buffer = static_cast<int>(turn & 1);
    MbarrierWait(&shared_.piece_empty[buffer], ~(turn >> 1) & 1);
#pragma unroll 1
    for (int row = static_cast<int>(Thread() % 128); row < kPrefillRows; row += 128) {
      shared_.rows[buffer][row] = Row(Work(), Work().first_row + row);
    }
    if (Thread() % 128 < kPrefillConsumers) {
      Describe(Work(), static_cast<int>(Thread() % 128), shared_.piece[buffer]);
    }
    __syncwarp();
    if (Lane() == 0) MbarrierArrive(&shared_.piece_full[buffer]);
    LoadQueries(buffer);
    CopyAsyncArrive(&shared_.queries_full[buffer]);
  }

  // Begins to copy the rows of Q that this warp has described, zeros for rows that are not there.
  __device__ __forceinline__ void LoadQueries(int buffer) const {
    constexpr uint32_t kChunks = kDim / 16;  // of a row
    const uint32_t chunk = Lane() % kChunks;
#pragma unroll 1
    for (uint32_t first = 32 * Warp(); first < kPrefillRows; first += 128) {
#pragma unroll 4
      for (uint32_t i = 0; i < kChunks; ++i) {
        const uint32_t row = first + Lane() / kChunks + 32 / kChunks * i;
        const uint32_t swizzle = kDim == 128 ? row & 7 : (row >> 1) & 3;
        const int64_t index = shared_.rows[buffer][row].index;
        CopyAsync16(shared_.q[buffer][0] + row * kDim + 16 * (chunk ^ swizzle),
                    p_.q + (index < 0 ? 0 : index) * kDim + 16 * chunk, index < 0 ? 0 : 16);
      }
    }
  }

  __device__ __forceinline__ PrefillRow Row(const PrefillWork& work, int row) const {
    constexpr float kLog2eOverRoot =
        1.4426950408889634f * (kDim == 128 ? 0.08838834764831845f : 0.125f);
    if (row >= work.rows) return {1.0f, work.Limit(row, p_.group), -1};
    const int64_t index = work.Index(row, p_.group, p_.num_heads);
    return {p_.scale_q[index] * kLog2eOverRoot, work.Limit(row, p_.group),
            static_cast<int32_t>(index)};
  }
  // Of consumer `i`.
  __device__ __forceinline__ void Describe(const PrefillWork& work, int i,
                                           PrefillPiece& piece) const {
    if (i == 0) piece.tiles = work.Tiles(work.first_row, kPrefillRows, p_.group);
    const int first = work.first_row + 64 * i;
    const int32_t tiles = work.Tiles(first, 64, p_.group);
    piece.group_tiles[i] = tiles;
    piece.masked_tiles[i] = tiles - work.Limit(first, p_.group) / kPrefillKeys;
  }

  // The lanes hold the page numbers of 32 tiles. Behind the last page its bytes come again: no key
  // of it is seen there, but what the tensor cores multiply by zero must be finite.
  __device__ __forceinline__ int32_t PageNumber(int32_t tile) {
    if (static_cast<uint32_t>(tile) % 32 == 0) {
      const PrefillWork& work = Work();
      const int32_t keys = work.Keys(work.first_row, kPrefillRows, p_.group);
      const int32_t page =
          min(Page(tile + static_cast<int32_t>(Lane())), (keys - 1) / kTokensPerPage);
      number_ = p_.page_table[int64_t{work.sequence} * p_.max_pages + page];
    }
    return __shfl_sync(0xFFFFFFFFu, number_, static_cast<uint32_t>(tile) % 32);
  }

  // `index` counts the CTA's tiles. The warp has read what was in the raw half of a page before.
  __device__ __forceinline__ void Load(int32_t number, uint32_t index) {
    const uint32_t slot = index % kPrefillRawPages;
    if (ElectOne()) {
      constexpr KvPageLayout kLayout = Shared::kLayout;
      Mbarrier* full = &shared_.raw_full[Warp()][slot];
      uint8_t* to = shared_.raw[Warp()][slot];
      const uint8_t* from = Work().half + static_cast<uint64_t>(static_cast<uint32_t>(number)) *
                                              static_cast<uint32_t>(p_.kv_heads * kPageBytes);
      MbarrierArriveExpectTx(full, Shared::kRawBytes);
      BulkLoad(to, from, Shared::kRawScales, full, kEvictLast);
      BulkLoad(to + Shared::kRawScales,
               from + kLayout.k_scale_offset() - (OfKeys() ? 0 : kLayout.v_offset()),
               Shared::kRawBytes - Shared::kRawScales, full, kEvictLast);
    }
    __syncwarp();
  }

  // Tile `tile` of the piece.
  __device__ __forceinline__ void Unpack(uint32_t index, int32_t tile) {
    const uint32_t slot = index % kPrefillRawPages;
    MbarrierWait(&shared_.raw_full[Warp()][slot], index / kPrefillRawPages & 1);
    const uint8_t* raw = shared_.raw[Warp()][slot];
    // Of the page as many tokens belong to the sequence.
    const uint32_t scales = TwoScales(raw, Work().context - Page(tile) * kTokensPerPage);
    if (OfKeys()) {
      UnpackKeys(raw, scales, index);
    } else {
      UnpackValues(raw, scales, index);
    }
    FenceProxyAsync();  // the stores above before the tensor cores' reads
    __syncwarp();
    if (Lane() == 0) MbarrierArrive(&shared_.full[index % kPrefillStages]);
  }

  static __device__ __forceinline__ uint32_t Low(uint32_t w) { return w & 0x0F0F0F0Fu; }
  static __device__ __forceinline__ uint32_t High(uint32_t w) { return (w >> 4) & 0x0F0F0F0Fu; }

  // (x - z) 2^-9 of four bytes x and z in 0..15, as E4M3: |x - z| and a sign bit.
  static __device__ __forceinline__ uint32_t Subtract(uint32_t x, uint32_t z, uint32_t bias) {
    return __vabsdiffu4(x, z) | (~(x + bias) & 0x80808080u);
  }

  // Until the consumers have read what the tile's stage held before.
  __device__ __forceinline__ void WaitStage(uint32_t index) const {
    MbarrierWait(&shared_.empty[index % kPrefillStages], ~(index / kPrefillStages) & 1);
  }

  // Load i of the warp brings kTokens tokens; 16 bytes are 32 d of one token, chunks 2 i and 2 i +
  // 1 of its row. For Dh = 128, 8 tokens on means 4 rows on in RowOfKey's order, which flips bit 2
  // of the swizzle; 16 tokens on mean 16 rows. Loads are kAhead in front of the stores, which the
  // compiler cannot tell apart.
  __device__ __forceinline__ void UnpackKeys(const uint8_t* raw, uint32_t scales, uint32_t index) {
    const uint32_t lane = Lane();
    const uint32_t row = static_cast<uint32_t>(RowOfKey(static_cast<int>(lane / kKeyChunks)));
    // 16-byte chunk c of a row lies at c ^ (address bits 7..): rows of 128 or of 64 bytes.
    const uint32_t swizzle = kDim == 128 ? row & 7 : (row >> 1) & 3;
    const uint32_t place = row * kDim + 16 * (2 * (lane % kKeyChunks) ^ swizzle);
    constexpr int kTokens = 32 / kKeyChunks;
    constexpr int kLoads = kTokensPerPage / kTokens;
    constexpr int kAhead = 3;
    const uint8_t* zeros = raw + Shared::kRawKeyZeros + lane / kKeyChunks;
    uint4 ahead[kAhead];
    uint32_t zero[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      ahead[i] = *reinterpret_cast<const uint4*>(raw + 16 * (lane + 32 * i));
      zero[i] = zeros[kTokens * i];
    }
    WaitStage(index);
    const uint32_t stage = index % kPrefillStages;
    KeyScales(scales, shared_.scales[stage][Warp() / 2]);
    uint8_t* k = shared_.k[stage][Warp() / 2];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const uint4 w = ahead[i % kAhead];
      const uint32_t z = (zero[i % kAhead] & 0xFu) * 0x01010101u;
      if (i + kAhead < kLoads) {
        ahead[i % kAhead] = *reinterpret_cast<const uint4*>(raw + 16 * (lane + 32 * (i + kAhead)));
        zero[i % kAhead] = zeros[kTokens * (i + kAhead)];
      }
      const uint32_t bias = 0x80808080u - z;
      const bool odd = kDim == 128 && i % 2 == 1;
      uint8_t* to =
          k + (odd ? (place ^ 64) + 4 * kDim : place) + (kDim == 128 ? i / 2 : i) * 16 * kDim;
      uint8_t* to_high =
          k + (odd ? (place ^ 80) + 4 * kDim : place ^ 16) + (kDim == 128 ? i / 2 : i) * 16 * kDim;
      *reinterpret_cast<uint4*>(to) =
          make_uint4(Subtract(Low(w.x), z, bias), Subtract(Low(w.y), z, bias),
                     Subtract(Low(w.z), z, bias), Subtract(Low(w.w), z, bias));
      *reinterpret_cast<uint4*>(to_high) =
          make_uint4(Subtract(High(w.x), z, bias), Subtract(High(w.y), z, bias),
                     Subtract(High(w.z), z, bias), Subtract(High(w.w), z, bias));
    }
  }

  // 8 bytes are 16 tokens of one d: one chunk of V^T's row d. Zero points of tokens that were never
  // written may be anything; masked, they leave the codes finite, and those tokens' P' is zero.
  __device__ __forceinline__ void UnpackValues(const uint8_t* raw, uint32_t scales,
                                               uint32_t index) {
    const uint32_t lane = Lane();
    const uint32_t place = lane * kTokensPerPage + 16 * ((lane >> 1) & 3);
    constexpr int kRows = kDim / 32;
    const uint8_t* from = raw + kVGroupBytes * lane;
    const uint8_t* zeros = raw + Shared::kRawKeyZeros + kTokensPerPage;
    uint2 ahead[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      ahead[i] = *reinterpret_cast<const uint2*>(from + 32 * kVGroupBytes * i);
    }
    uint4 zero = *reinterpret_cast<const uint4*>(zeros);
    WaitStage(index);
    const uint32_t stage = index % kPrefillStages;
    ValueScales(scales, shared_.scales[stage][Warp() / 2]);
    uint8_t* v = shared_.v[stage][Warp() / 2];
#pragma unroll
    for (int group = 0; group < 4; ++group) {
      const uint4 z = make_uint4(Low(zero.x), Low(zero.y), Low(zero.z), Low(zero.w));
      if (group < 3) zero = *reinterpret_cast<const uint4*>(zeros + 16 * (group + 1));
      uint8_t* to = v + (place ^ (16 * group));
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const uint2 w = ahead[i];
        if (group < 3) {
          ahead[i] =
              *reinterpret_cast<const uint2*>(from + kVGroupBytes * (kDim * (group + 1) + 32 * i));
        }
        *reinterpret_cast<uint4*>(to + 32 * kTokensPerPage * i) = make_uint4(
            Subtract(Low(w.x), z.x, 0x80808080u - z.x), Subtract(Low(w.y), z.y, 0x80808080u - z.y),
            Subtract(High(w.x), z.z, 0x80808080u - z.z),
            Subtract(High(w.y), z.w, 0x80808080u - z.w));
      }
    }
  }

  // Of the lane's two tokens; zero where they are not the sequence's.
  __device__ __forceinline__ uint32_t TwoScales(const uint8_t* raw, int32_t valid) const {
    const int token = 2 * static_cast<int>(Lane());
    const uint32_t keep = token + 1 < valid ? 0xFFFFFFFFu : (token < valid ? 0x0000FFFFu : 0u);
    const uint8_t* scales = raw + Shared::kRawScales + (OfKeys() ? 0 : 2 * kTokensPerPage);
    return *reinterpret_cast<const uint32_t*>(scales + 2 * token) & keep;
  }
  __device__ __forceinline__ void KeyScales(uint32_t k, PrefillScales& to) const {
    *reinterpret_cast<float2*>(to.score + 2 * Lane()) =
        make_float2(Bf16LowToFloat(k) * 512.0f, Bf16HighToFloat(k) * 512.0f);
  }
  __device__ __forceinline__ void ValueScales(uint32_t v, PrefillScales& to) const {
    const float v0 = Bf16LowToFloat(v);
    const float v1 = Bf16HighToFloat(v);
    const uint32_t top = max(__float_as_uint(v0) & 0x7FFFFFFFu, __float_as_uint(v1) & 0x7FFFFFFFu);
    const uint32_t above = (__reduce_max_sync(0xFFFFFFFFu, top) + 0x007FFFFFu) & 0x7F800000u;
    // A NaN or infinite scale makes its row NaN by itself; r stays a number.
    constexpr uint32_t kSmallest = 27u << 23;  // 2^-100
    const uint32_t r = min(max(kSmallest, above), 0x7E800000u);
    const float unit = __uint_as_float((262u << 23) - r);  // 256 / r
    *reinterpret_cast<float2*>(to.value + 2 * Lane()) = make_float2(v0 * unit, v1 * unit);
    if (Lane() == 0) {
      to.log_r = static_cast<float>(static_cast<int>(r >> 23) - 127);
      to.inverse_r = __uint_as_float((254u << 23) - r);
    }
  }

  const AttnPrefillParams& p_;
  Shared& shared_;
  int32_t number_ = 0;  // of a page: one a lane
};

}  // namespace fireq::sm90
