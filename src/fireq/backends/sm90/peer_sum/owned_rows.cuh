// A sum where each rank owns every so manieth row: the others send it their parts of the row, and
// it sends on what came of them. Of a message of b bytes a rank sends b (r - 1) / r and the rows'
// results, where everybody's sending everything to all is b (r - 1).
//
// A row that is the rank's own is a cluster's, a slice of it each CTA's: what is read of all ranks'
// boxes, summed and quantised then takes a quarter of the time, for one exchange over the cluster.
// The others' rows are waited for by a CTA each.
#pragma once

#include <type_traits>

#include "fireq/backends/sm90/peer_sum/part.cuh"

namespace fireq::sm90 {

// A row as its owner sends it on: codes, sums of groups, scale, without gaps. E4M3 of a quantised
// row is never 0xFF, and no float is the two NaNs that kEmpty is, so words are their own flags
// here, too. No longer than the row's BF16 values.
struct RowMessage {
  uint8_t* bytes;
  int64_t k;
  __device__ void* Codes(int vector) const { return bytes + vector * kVectorWidth; }
  __device__ void* Sum(int group) const { return bytes + k + 4 * group; }
  __device__ void* Scale() const { return Sum(static_cast<int>((k + kGroup - 1) / kGroup)); }
};

// What CTAs of a cluster know of a row is exchanged through their shared memory, in turns.
struct ClusterStats {
  static constexpr int kSlices = 4;
  float2 stats[2][kSlices];
  Mbarrier there[2];

  // All threads, before any Combine; the cluster meets in between.
  __device__ void Init() {
    if (threadIdx.x == 0) {
      for (Mbarrier& barrier : there) MbarrierInit(&barrier, 1);
      FenceMbarrierInit();
      for (Mbarrier& barrier : there) MbarrierArriveExpectTx(&barrier, sizeof(stats[0]));
    }
    __syncwarp();
  }
  // The cluster's of the `count`-th row, of what each thread of each CTA says of its slice.
  __device__ RowStats Combine(const RowStats& slice, int count) {
    const int turn = count % 2;
    Mbarrier* const barrier = &there[turn];
    if (threadIdx.x < kSlices) {
      StoreAsync64(ClusterAddress(&stats[turn][ClusterRank()], threadIdx.x),
                   {slice.squares, __uint_as_float(slice.bits)},
                   ClusterAddress(barrier, threadIdx.x));
    }
    MbarrierWait(barrier, static_cast<uint32_t>(count / 2 % 2));
    RowStats all{0.0f, 0};
#pragma unroll
    for (int s = 0; s < kSlices; ++s) {
      const float2 of_slice = stats[turn][s];
      all.squares += of_slice.x;
      all.bits = max(all.bits, __float_as_uint(of_slice.y));
    }
    // Others send to this turn again once they have seen what this CTA sends to the other one.
    if (threadIdx.x == 0) MbarrierArriveExpectTx(barrier, sizeof(stats[0]));
    return all;
  }
};

enum class OwnersSend : uint8_t { kSums, kCodes };  // of the sums' norm

struct NoWeights {
  __device__ NoWeights(const float*, int64_t) {}
};

struct OwnedRowsShared {
  float slots[2 * 256 / 32];
  ClusterStats stats;
};

// Of a row, this CTA's vectors: whole groups, one vector a thread at most.
struct RowSlice {
  int begin, count;
  __device__ explicit RowSlice(int row_vectors) {
    constexpr int kSlices = ClusterStats::kSlices;
    const int width = (row_vectors + kSlices * kVectorsPerGroup - 1) /
                      (kSlices * kVectorsPerGroup) * kVectorsPerGroup;
    begin = min(row_vectors, static_cast<int>(ClusterRank()) * width);
    count = min(width, row_vectors - begin);
  }
  __device__ int64_t columns() const { return int64_t{count} * kVectorWidth; }
};

template <OwnersSend kSent>
class OwnedRows {
 public:
  static constexpr bool kNorm = kSent == OwnersSend::kCodes;
  static constexpr int kRanks = kMaxOwningRanks;
  static constexpr int kThreads = 256;
  static constexpr int kSlices = ClusterStats::kSlices;
  static_assert(kMaxPeerSumNormK <= kSlices * kThreads * kVectorWidth);
  using SliceRow = Row<1, kThreads>;
  using WholeRow = Row<kSlices, kThreads>;
  using Weights = std::conditional_t<kNorm, WeightsAtHand<SliceRow>, NoWeights>;

  // The first row's x is on its way while the turn is.
  __device__ OwnedRows(const OwnedRowsParams& p, const RowSlice& slice, const Weights& weights,
                       OwnedRowsShared& shared)
      : p_(p),
        rows_(static_cast<int>(p.rows)),
        row_vectors_(static_cast<int>(p.k) / kVectorWidth),
        ranks_(p.end.layout.ranks),
        rank_(p.end.rank),
        own_((rows_ - rank_ + ranks_ - 1) / ranks_),
        slice_(slice),
        first_x_(LoadX(static_cast<int>(ClusterId()))),
        part_(p.end),
        weights_(weights),
        shared_(shared) {}

  __device__ void Run() {
    if (p_.parts_at == PartsAt::kMemory)
      for (int row = static_cast<int>(blockIdx.x); row < rows_; row += kPeerSumCtas) SendPart(row);
    const int first = static_cast<int>(ClusterId());
    for (int n = first, count = 0; n < own_; n += kPeerSumCtas / kSlices, ++count) {
      if (count > 0) __syncthreads();  // the row before has read `slots`
      SumRow(n * ranks_ + rank_, count == 0 ? first_x_ : LoadX(n), count);
    }
    // From the first CTA on that has no row of this rank's.
    static_assert((kPeerSumCtas & (kPeerSumCtas - 1)) == 0);
    const int first_other = (static_cast<int>(blockIdx.x) - own_ * kSlices) & (kPeerSumCtas - 1);
    for (int n = first_other; n < rows_ - own_; n += kPeerSumCtas) {
      const int row = NthOther(n);
      if constexpr (kNorm) {
        ReceiveCodes(row);
      } else {
        ReceiveSum(row);
      }
    }
    part_.End();
  }

 private:
  // Of rows that fit a box: 32 bits number them and their vectors.
  __device__ __forceinline__ int Owner(int row) const { return row % ranks_; }
  __device__ __forceinline__ int NthOther(int n) const {
    const int other = n % (ranks_ - 1);
    return n / (ranks_ - 1) * ranks_ + other + (other >= rank_ ? 1 : 0);
  }
  __device__ __forceinline__ bool Has() const {
    return static_cast<int>(threadIdx.x) < slice_.count;
  }
  // This thread's vector of its slice.
  __device__ __forceinline__ int At(int row) const {
    return row * row_vectors_ + slice_.begin + static_cast<int>(threadIdx.x);
  }

  // Of this rank's n-th row, as the call before left it. Not out of L1: the kernel in front may
  // still be running, and nothing was waited for.
  __device__ __forceinline__ uint4 LoadX(int n) const {
    if (!p_.adds_x || n >= own_ || !Has()) return {0, 0, 0, 0};
    return LoadSystem128(p_.x + At(n * ranks_ + rank_));
  }

  __device__ __forceinline__ void SendPart(int index) const {
    const WholeRow row(p_.k);
#pragma unroll
    for (int v = 0; v < kSlices; ++v) {
      const int at = index * row_vectors_ + row.Index(v);
      if (row.Has(v)) StoreSystem128(part_.To(Owner(index), at), Sendable(p_.parts[at]));
    }
  }

  // Waits until `look` has seen everything, or a rank has failed.
  template <class LookAt>
  __device__ __forceinline__ void Await(const LookAt& look) const {
    for (uint32_t looks = 0; !look() && !part_.HasFailed(looks); ++looks) {
    }
  }

  // As the GEMM's residual epilogue adds x to the first rank's part.
  __device__ __forceinline__ uint4 Sum(uint4 (&parts)[kRanks], const uint4& x) const {
    if (p_.parts_at == PartsAt::kNowhere) return x;
    if (p_.adds_x) parts[0] = AddBf16(parts[0], x);
    return part_.Add(parts);
  }

  __device__ __forceinline__ void SumRow(int index, const uint4& x, int count) const {
    const int at = At(index);
    const bool has = Has(), has_parts = has && p_.parts_at != PartsAt::kNowhere;
    uint4 parts[kRanks];
#pragma unroll
    for (int r = 0; r < kRanks; ++r)
      parts[r] = has_parts && r < ranks_ ? Emptiness() : uint4{0, 0, 0, 0};
    Await([&] {  // what has come already is not asked for again
#pragma unroll
      for (int r = 0; r < kRanks; ++r)
        LoadSystem128If(HasEmpty(parts[r]), part_.From(r, at), parts[r]);
      bool all = true;
#pragma unroll
      for (int r = 0; r < kRanks; ++r) all &= !HasEmpty(parts[r]);
      return all;
    });
    const uint4 sum = has ? Sum(parts, x) : uint4{0, 0, 0, 0};
    if constexpr (kNorm) {
      SliceRow row(slice_.columns());
      UnpackBf16(sum, row.value[0]);
      const RowStats stats = shared_.stats.Combine(Weigh(row, weights_, shared_.slots), count);
      const Normalised normalised = NormaliseBy(stats, p_.norm.eps, p_.k);
      WriteRow(row, normalised.inv_rms, normalised.absmax, ToAll(*this, index));
    }
    // Nobody waits for the rest.
    if (!has) return;
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      if (r >= ranks_) break;
      if (!kNorm && r != rank_) StoreSystem128(part_.To(r, at), Sendable(sum));
      if (has_parts) *part_.From(r, at) = Emptiness();
    }
    p_.x[at] = sum;
  }

  // A place in a rank's own slot, through which of other ranks' rows no part comes.
  __device__ __forceinline__ RowMessage Message(int to, int index) const {
    return {reinterpret_cast<uint8_t*>(part_.Own(to, index * row_vectors_)), p_.k};
  }
  // Where the codes of a slice of a row go: here, and to every other rank.
  struct ToAll {
    int begin;  // vectors
    GlobalRow here;
    RowMessage there[kRanks];  // of null where nothing goes
    __device__ __forceinline__ ToAll(const OwnedRows& all, int index)
        : begin(all.slice_.begin), here(all.p_.norm.out, index, all.p_.k) {
#pragma unroll
      for (int r = 0; r < kRanks; ++r) {
        const bool sent = r < all.ranks_ && r != all.rank_;
        there[r] = sent ? all.Message(r, index) : RowMessage{nullptr, all.p_.k};
      }
    }
    template <class Store>
    __device__ __forceinline__ void ForOthers(const Store& store) const {
#pragma unroll
      for (int r = 0; r < kRanks; ++r)
        if (there[r].bytes != nullptr) store(there[r]);
    }
    __device__ void Scale(float scale) const {
      if (begin > 0) return;
      here.Scale(scale);
      ForOthers([&](const RowMessage& m) { StoreSystem32(m.Scale(), __float_as_uint(scale)); });
    }
    __device__ void Codes(int vector, uint2 codes) const {
      here.Codes(begin + vector, codes);
      ForOthers([&](const RowMessage& m) { StoreSystem64(m.Codes(begin + vector), codes); });
    }
    __device__ void Sum(int group, float sum) const {
      const int of_row = begin / kVectorsPerGroup + group;
      here.Sum(of_row, sum);
      ForOthers([&](const RowMessage& m) { StoreSystem32(m.Sum(of_row), __float_as_uint(sum)); });
    }
  };

  __device__ __forceinline__ void ReceiveSum(int index) const {
    const WholeRow row(p_.k);
    const int first = index * row_vectors_, owner = Owner(index);
    uint4 sums[kSlices];
    Await([&] {
      bool all = true;
#pragma unroll
      for (int v = 0; v < kSlices; ++v)
        if (row.Has(v)) sums[v] = LoadSystem128(part_.From(owner, first + row.Index(v)));
#pragma unroll
      for (int v = 0; v < kSlices; ++v) all &= !row.Has(v) || !HasEmpty(sums[v]);
      return all;
    });
#pragma unroll
    for (int v = 0; v < kSlices; ++v) {
      if (!row.Has(v)) continue;
      p_.x[first + row.Index(v)] = sums[v];
      *part_.From(owner, first + row.Index(v)) = Emptiness();
    }
  }

  __device__ __forceinline__ void ReceiveCodes(int index) const {
    const WholeRow row(p_.k);
    const RowMessage message = Message(rank_, index);
    const GlobalRow out(p_.norm.out, index, p_.k);
    const int word = static_cast<int>(threadIdx.x);  // of the sums and the scale behind them
    const bool has_word = word <= out.groups;
    uint2 codes[kSlices];
    uint32_t number = 0;
    Await([&] {
#pragma unroll
      for (int v = 0; v < kSlices; ++v)
        if (row.Has(v)) codes[v] = LoadSystem64(message.Codes(row.Index(v)));
      if (has_word) number = LoadSystem32(message.Sum(word));
      bool all = number != kEmpty;
#pragma unroll
      for (int v = 0; v < kSlices; ++v)
        all &= !row.Has(v) || (codes[v].x != kEmpty && codes[v].y != kEmpty);
      return all;
    });
#pragma unroll
    for (int v = 0; v < kSlices; ++v) {
      if (!row.Has(v)) continue;
      out.Codes(row.Index(v), codes[v]);
      *static_cast<uint2*>(message.Codes(row.Index(v))) = {kEmpty, kEmpty};
    }
    if (!has_word) return;
    *static_cast<uint32_t*>(message.Sum(word)) = kEmpty;
    if (word < out.groups) {
      out.Sum(word, __uint_as_float(number));
    } else {
      out.Scale(__uint_as_float(number));
    }
  }

  const OwnedRowsParams& p_;
  const int rows_, row_vectors_;
  const int ranks_, rank_;
  const int own_;  // rows
  const RowSlice slice_;
  const uint4 first_x_;  // of the cluster's first row
  const PeerPart<kRanks> part_;
  const Weights& weights_;
  OwnedRowsShared& shared_;
};

}  // namespace fireq::sm90
