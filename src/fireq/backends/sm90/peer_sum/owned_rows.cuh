// A sum and its norm where each rank owns every so manieth row: the others send it their parts of
// the row, and it sends on what came of them. Of a message of b bytes a rank sends b (r - 1) / r
// and the rows' results, where everybody's sending everything to all is b (r - 1).
#pragma once

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

inline constexpr int kMaxOwningRanks = 4;

template <int kVectors_>
class OwnedRows {
 public:
  static constexpr int kRanks = kMaxOwningRanks;
  static constexpr int kThreads = Threads(kRanks);
  static constexpr int kVectors = kVectors_;
  using CtaRow = Row<kVectors, kThreads>;
  using Weights = WeightsAtHand<CtaRow>;

  // What the CTA sends first is on its way while the turn is.
  __device__ OwnedRows(const PeerSumNormParams& p, const Weights& weights, float* slots)
      : p_(p),
        rows_(static_cast<int>(p.rows)),
        row_vectors_(static_cast<int>(p.k) / kVectorWidth),
        first_row_(static_cast<int>(blockIdx.x)),
        first_(Load(first_row_)),
        part_(p.sum),
        weights_(weights),
        slots_(slots),
        ranks_(p.sum.layout.ranks),
        rank_(p.sum.rank) {}

  __device__ void Run() {
    for (int row = first_row_; row < rows_; row += kPeerSumCtas)
      if (Owner(row) != rank_) SendPart(row, row == first_row_ ? first_ : Load(row));
    for (int row = first_row_; row < rows_; row += kPeerSumCtas) {
      if (row != first_row_) __syncthreads();  // the row before has read `slots`
      if (Owner(row) == rank_) {
        SumRow(row, row == first_row_ ? first_ : Load(row));
      } else if (WantsSum(rank_)) {
        ReceiveSum(row);
      } else {
        ReceiveCodes(row);
      }
    }
  }

 private:
  // Of rows that fit a box: 32 bits number them and their vectors.
  __device__ __forceinline__ int Owner(int row) const { return row % ranks_; }
  __device__ __forceinline__ bool WantsSum(int rank) const { return rank < p_.ranks_with_sums; }
  __device__ __forceinline__ int At(int row, int v) const {
    return row * row_vectors_ + CtaRow::Index(v);
  }

  struct Values {
    uint4 vector[kVectors];
  };
  __device__ __forceinline__ Values Load(int index) const {
    const CtaRow row(p_.k);
    Values mine{};
#pragma unroll
    for (int v = 0; v < kVectors; ++v)
      if (index < rows_ && row.Has(v)) mine.vector[v] = p_.sum.values[At(index, v)];
    return mine;
  }

  __device__ __forceinline__ void SendPart(int index, const Values& mine) const {
    const CtaRow row(p_.k);
#pragma unroll
    for (int v = 0; v < kVectors; ++v)
      if (row.Has(v))
        StoreSystem128(part_.To(Owner(index), At(index, v)), Sendable(mine.vector[v]));
  }

  // Waits until `look` has seen everything, or a rank has failed.
  template <class LookAt>
  __device__ __forceinline__ void Await(const LookAt& look) const {
    for (uint32_t looks = 0; !look() && !part_.HasFailed(looks); ++looks) {
    }
  }

  __device__ __forceinline__ void SumRow(int index, const Values& mine) const {
    CtaRow row(p_.k);
    uint4 parts[kVectors][kRanks];
    Await([&] {
      bool all = true;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        if (!row.Has(v)) continue;
#pragma unroll
        for (int r = 0; r < kRanks; ++r)
          if (r < ranks_)
            parts[v][r] = r == rank_ ? mine.vector[v] : LoadSystem128(part_.From(r, At(index, v)));
#pragma unroll
        for (int r = 0; r < kRanks; ++r) all &= r >= ranks_ || r == rank_ || !HasEmpty(parts[v][r]);
      }
      return all;
    });
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      uint4 sum{0, 0, 0, 0};
      if (row.Has(v)) {
        const int at = At(index, v);
        sum = part_.Add(parts[v]);
        for (int r = 0; r < p_.ranks_with_sums; ++r)
          if (r != rank_) StoreSystem128(part_.To(r, at), Sendable(sum));
        p_.sum.values[at] = sum;
#pragma unroll
        for (int r = 0; r < kRanks; ++r)
          if (r < ranks_ && r != rank_) *part_.From(r, at) = Emptiness();
      }
      UnpackBf16(sum, row.value[v]);
    }
    const Normalised normalised = Normalise(row, weights_, p_.eps, p_.k, slots_);
    const int to = static_cast<int>(threadIdx.x);
    if (WantsSum(to) && to != rank_) {
      StoreSystem64(Factors(to, index),
                    {__float_as_uint(normalised.inv_rms), __float_as_uint(normalised.absmax)});
    }
    WriteRow(row, normalised.inv_rms, normalised.absmax, ToAll(*this, index));
  }

  // Places in a rank's own slot, which no part of a sum comes through.
  __device__ __forceinline__ uint4* OwnPlace(int to, int index) const {
    return part_.Own(to, index * row_vectors_);
  }
  __device__ __forceinline__ uint2* Factors(int to, int index) const {
    return reinterpret_cast<uint2*>(OwnPlace(to, index));
  }
  __device__ __forceinline__ RowMessage Message(int to, int index) const {
    return {reinterpret_cast<uint8_t*>(OwnPlace(to, index)), p_.k};
  }
  // Where a row's codes go: here, and to every rank that does not make them of the sums.
  struct ToAll {
    GlobalRow here;
    RowMessage there[kRanks];  // of null where nothing goes
    __device__ __forceinline__ ToAll(const OwnedRows& all, int index)
        : here(all.p_.out, index, all.p_.k) {
#pragma unroll
      for (int r = 0; r < kRanks; ++r) {
        const bool sent = !all.WantsSum(r) && r < all.ranks_ && r != all.rank_;
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
      here.Scale(scale);
      ForOthers([&](const RowMessage& m) { StoreSystem32(m.Scale(), __float_as_uint(scale)); });
    }
    __device__ void Codes(int vector, uint2 codes) const {
      here.Codes(vector, codes);
      ForOthers([&](const RowMessage& m) { StoreSystem64(m.Codes(vector), codes); });
    }
    __device__ void Sum(int group, float sum) const {
      here.Sum(group, sum);
      ForOthers([&](const RowMessage& m) { StoreSystem32(m.Sum(group), __float_as_uint(sum)); });
    }
  };

  // The sum and what its norm is, of which the same codes come as its owner's.
  __device__ __forceinline__ void ReceiveSum(int index) const {
    CtaRow row(p_.k);
    const int owner = Owner(index);
    uint2* const norm = Factors(rank_, index);
    uint4 sums[kVectors];
    uint2 factors;
    Await([&] {
      factors = LoadSystem64(norm);
      bool all = factors.x != kEmpty && factors.y != kEmpty;
#pragma unroll
      for (int v = 0; v < kVectors; ++v)
        if (row.Has(v)) sums[v] = LoadSystem128(part_.From(owner, At(index, v)));
#pragma unroll
      for (int v = 0; v < kVectors; ++v) all &= !row.Has(v) || !HasEmpty(sums[v]);
      return all;
    });
    __syncthreads();  // all have read the factors
    if (threadIdx.x == 0) *norm = {kEmpty, kEmpty};
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      if (!row.Has(v)) sums[v] = {0, 0, 0, 0};
      UnpackBf16(sums[v], row.value[v]);
      if (!row.Has(v)) continue;
      p_.sum.values[At(index, v)] = sums[v];
      *part_.From(owner, At(index, v)) = Emptiness();
    }
    MultiplyByWeights(row, weights_);
    WriteRow(row, __uint_as_float(factors.x), __uint_as_float(factors.y),
             GlobalRow(p_.out, index, p_.k));
  }

  __device__ __forceinline__ void ReceiveCodes(int index) const {
    const CtaRow row(p_.k);
    const RowMessage message = Message(rank_, index);
    const GlobalRow out(p_.out, index, p_.k);
    const int word = static_cast<int>(threadIdx.x);  // of the sums and the scale behind them
    const bool has_word = word <= out.groups;
    uint2 codes[kVectors];
    uint32_t number = 0;
    Await([&] {
#pragma unroll
      for (int v = 0; v < kVectors; ++v)
        if (row.Has(v)) codes[v] = LoadSystem64(message.Codes(row.Index(v)));
      if (has_word) number = LoadSystem32(message.Sum(word));
      bool all = number != kEmpty;
#pragma unroll
      for (int v = 0; v < kVectors; ++v)
        all &= !row.Has(v) || (codes[v].x != kEmpty && codes[v].y != kEmpty);
      return all;
    });
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
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

  const PeerSumNormParams& p_;
  const int rows_, row_vectors_;
  const int first_row_;
  const Values first_;  // of the CTA's first row
  const PeerPart<kRanks> part_;
  const Weights& weights_;
  float* slots_;
  const int ranks_, rank_;
};

}  // namespace fireq::sm90
