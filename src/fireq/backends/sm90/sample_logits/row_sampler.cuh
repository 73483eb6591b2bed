// One row of logits and a CTA, or the first of a cluster whose CTAs look for the top together: the
// host's Sampler without its sort.
//
// The host sorts the candidates (larger logit first, then lower id), keeps a prefix of that order
// and draws in it. Here a place in the order is found by narrowing: count and weight of the
// candidates by bins of their logits, the bin in which the wanted place lies, bins of that bin.
// Weights exp((logit - top) / temperature) are added as multiples of 2^-44, so the sums do not
// depend on the order of the additions.
#pragma once

#include <cuda_fp16.h>

#include <cmath>
#include <cstdint>

#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/ldst.cuh"
#include "fireq/backends/sm90/sample_logits/launch.h"
#include "fireq/backends/sm90/sample_logits/logit_rank.cuh"
#include "fireq/base/philox.h"

namespace fireq::sm90 {

inline constexpr int kSampleThreads = 512;
inline constexpr int kSampleWarps = kSampleThreads / 32;
inline constexpr int kMaxSampleCluster = 8;
inline constexpr int kSampleBins = 2048;
inline constexpr float kBinsPerUnit = 64.0f;  // of the first bins: a 64th of a logit each
inline constexpr float kWeightOne = 0x1p44f;

struct SampleShared {
  uint64_t weight[kSampleBins];
  uint32_t count[kSampleBins];
  uint64_t warp[kSampleWarps];
  uint64_t warp_weight[kSampleWarps];
  uint64_t found[4];
  uint64_t cluster[kMaxSampleCluster];  // the first CTA's: the largest of each one's part
};

// Candidates in front of and at a place of the sorted order.
struct SamplePrefix {
  uint32_t key;     // of the last candidate inside
  uint32_t ties;    // how many with that key are inside: the first by id
  uint64_t count;   // candidates inside
  uint64_t weight;  // and their weight
};

// The i-th four logits of 16 bytes.
__device__ __forceinline__ float4 FourLogits(const float*, const uint4& read, int /*i*/) {
  return {__uint_as_float(read.x), __uint_as_float(read.y), __uint_as_float(read.z),
          __uint_as_float(read.w)};
}
__device__ __forceinline__ float4 FourLogits(const __half*, const uint4& read, int i) {
  const uint32_t words[2] = {i == 0 ? read.x : read.z, i == 0 ? read.y : read.w};
  const float2 low = __half22float2(*reinterpret_cast<const __half2*>(&words[0]));
  const float2 high = __half22float2(*reinterpret_cast<const __half2*>(&words[1]));
  return {low.x, low.y, high.x, high.y};
}

template <class RowLogit>
class RowSampler {
 public:
  // `seen` is a bit an id, in shared memory.
  __device__ RowSampler(const SampleLogitsParams& p, SampleShared& shared, uint32_t* seen)
      : p_(p),
        shared_(shared),
        seen_(seen),
        index_(blockIdx.x / ClusterSize()),
        row_(p.rows[index_]),
        logits_(static_cast<const RowLogit*>(p.logits) + int64_t{index_} * p.vocab) {}

  __device__ void Run() {
    ClusterArriveRelaxed();  // the first CTA's memory is there before another writes to it
    int32_t* out = p_.out + int64_t{index_} * (kSampleHead + 2 * p_.max_logprobs);
    penalised_ = row_.repetition_penalty != 1.0f && row_.history_end > row_.history_begin;
    if (penalised_) MarkSeen();
    const uint64_t best = LargestOfCluster();
    if (ClusterRank() != 0) return;
    int32_t id = best == 0 ? -1 : IdOfRank(best);
    if (best != 0 && row_.temperature > 0.0f) {
      top_ = Logit<true>(id);
      id = Draw();
    }
    if (threadIdx.x == 0) out[0] = id;
    if (threadIdx.x == 0 && p_.ids != nullptr) p_.ids[index_] = id;
    if (best != 0 && row_.num_logprobs >= 0) WriteLogprobs(id, out);
  }

 private:
  static constexpr int kPerRead = sizeof(uint4) / sizeof(RowLogit);

  __device__ void MarkSeen() {
    for (int i = threadIdx.x; i < (p_.vocab + 31) / 32; i += kSampleThreads) seen_[i] = 0;
    __syncthreads();  // cleared before it is marked
    for (int i = row_.history_begin + static_cast<int>(threadIdx.x); i < row_.history_end;
         i += kSampleThreads) {
      const int32_t id = p_.history[i];
      atomicOr(&seen_[id / 32], 1u << (id % 32));
    }
    __syncthreads();  // marked before it is read
  }

  template <bool kPenalised>
  __device__ __forceinline__ float Adjust(float logit, int32_t id) const {
    if (kPenalised && penalised_ && (seen_[id / 32] >> (id % 32) & 1u))
      return logit > 0.0f ? logit / row_.repetition_penalty : logit * row_.repetition_penalty;
    return logit;
  }
  template <bool kPenalised>
  __device__ __forceinline__ float Logit(int32_t id) const {
    return Adjust<kPenalised>(static_cast<float>(logits_[id]), id);
  }

  // visit(logit, id) by some thread for every id.
  template <bool kPenalised, class Visit>
  __device__ __forceinline__ void ForEach(Visit visit) const {
    ForEachFour<kPenalised>(
        [&](float4 four, int32_t id) {
          visit(four.x, id);
          visit(four.y, id + 1);
          visit(four.z, id + 2);
          visit(four.w, id + 3);
        },
        visit);
  }
  // visit_four(four logits, the first one's id), or visit(logit, id), by some thread for all ids or
  // for part `part` of `parts` of them; a thread sees them in order.
  template <bool kPenalised, class VisitFour, class Visit>
  __device__ __forceinline__ void ForEachFour(VisitFour visit_four, Visit visit, int part = 0,
                                              int parts = 1) const {
    const int begin = part * kSampleThreads + static_cast<int>(threadIdx.x);
    const int step = parts * kSampleThreads;
    if (p_.vocab % kPerRead != 0) {
      for (int i = begin; i < p_.vocab; i += step) visit(Logit<kPenalised>(i), i);
      return;
    }
    // Loads first: what a multiprocessor has in flight decides how fast it reads.
    constexpr int kLoads = 8;
    const int reads = p_.vocab / kPerRead;
    for (int base = begin; base < reads; base += kLoads * step) {
      uint4 read[kLoads];
#pragma unroll
      for (int l = 0; l < kLoads; ++l) {
        const int at = base + l * step;
        if (at < reads) read[l] = __ldg(reinterpret_cast<const uint4*>(logits_) + at);
      }
#pragma unroll
      for (int l = 0; l < kLoads; ++l) {
        const int at = base + l * step;
        if (at >= reads) break;
#pragma unroll
        for (int i = 0; i < kPerRead / 4; ++i) {
          const int32_t id = kPerRead * at + 4 * i;
          const float4 four = FourLogits(logits_, read[l], i);
          visit_four(
              make_float4(Adjust<kPenalised>(four.x, id), Adjust<kPenalised>(four.y, id + 1),
                          Adjust<kPenalised>(four.z, id + 2), Adjust<kPenalised>(four.w, id + 3)),
              id);
        }
      }
    }
  }

  // All threads get it.
  template <class Combine>
  __device__ uint64_t Reduce(uint64_t value, Combine combine) {
    for (int step = 16; step > 0; step /= 2)
      value = combine(value, __shfl_xor_sync(0xFFFFFFFFu, value, step));
    if (threadIdx.x % 32 == 0) shared_.warp[threadIdx.x / 32] = value;
    __syncthreads();  // every warp's value is there
    value = shared_.warp[0];
    for (int w = 1; w < kSampleWarps; ++w) value = combine(value, shared_.warp[w]);
    __syncthreads();  // read before the next reduction writes
    return value;
  }
  __device__ uint64_t Sum(uint64_t value) {
    return Reduce(value, [](uint64_t a, uint64_t b) { return a + b; });
  }

  // Of this CTA's part the first in the order, penalised: what Largest finds without a bound, at a
  // tenth of its instructions. A step's greedy choice is this alone.
  __device__ uint64_t FirstOfPart(int part, int parts) {
    FirstLogit top;
    ForEachFour<true>(
        [&](float4 four, int32_t id) {
          const float largest = fmaxf(fmaxf(four.x, four.y), fmaxf(four.z, four.w));
          if (!top.IsBeatenBy(largest)) return;
          top.logit = largest;
          top.id = id + (four.x == largest ? 0 : four.y == largest ? 1 : four.z == largest ? 2 : 3);
        },
        [&](float logit, int32_t id) { top.See(logit, id); }, part, parts);
    return Reduce(top.Rank(), [](uint64_t a, uint64_t b) { return a > b ? a : b; });
  }

  // The first of all, penalised; the first CTA gets it.
  __device__ uint64_t LargestOfCluster() {
    const auto size = static_cast<int>(ClusterSize());
    const auto rank = static_cast<int>(ClusterRank());
    const uint64_t mine = FirstOfPart(rank, size);
    ClusterWait();
    if (threadIdx.x == 0) StoreCluster64(ClusterAddress(&shared_.cluster[rank], 0), mine);
    ClusterSync();  // every part's largest is there
    uint64_t best = mine;
    if (rank == 0)
      for (int r = 1; r < size; ++r) best = max(best, shared_.cluster[r]);
    return best;
  }
  // First of those behind `bound` in the order; 0 if there is none.
  template <bool kPenalised>
  __device__ uint64_t Largest(uint64_t bound) {
    uint64_t best = 0;
    ForEach<kPenalised>([&](float logit, int32_t id) {
      const uint32_t key = LogitKey(logit);
      const uint64_t rank = LogitRank(key, id);
      if (key != 0 && rank < bound && rank > best) best = rank;
    });
    return Reduce(best, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
  }

  // 1 for the top itself: infinity minus infinity would be NaN.
  __device__ __forceinline__ static uint64_t Weight(float logit, float top, float scale) {
    const float weight = logit == top ? 1.0f : exp2f((logit - top) * scale);
    return __float2ull_rz(weight * kWeightOne);
  }
  __device__ __forceinline__ uint64_t Weight(float logit) const {
    return Weight(logit, top_, 1.44269504f / row_.temperature);
  }

  __device__ __forceinline__ int FirstBin(float logit) const {
    if (logit == top_) return 0;
    return static_cast<int>(fminf((top_ - logit) * kBinsPerUnit, float{kSampleBins - 1}));
  }

  // Fills the bins with the candidates for which bin_of(logit, key) is not negative.
  template <class BinOf>
  __device__ void FillBins(BinOf bin_of) {
    for (int i = threadIdx.x; i < kSampleBins; i += kSampleThreads) {
      shared_.count[i] = 0;
      shared_.weight[i] = 0;
    }
    __syncthreads();  // empty before they are filled
    ForEach<true>([&](float logit, int32_t) {
      const uint32_t key = LogitKey(logit);
      if (key == 0) return;
      const int bin = bin_of(logit, key);
      if (bin < 0) return;
      atomicAdd(&shared_.count[bin], 1u);
      atomicAdd(reinterpret_cast<unsigned long long*>(&shared_.weight[bin]),
                static_cast<unsigned long long>(Weight(logit)));
    });
    __syncthreads();  // full before they are read
  }

  // The bin that holds the wanted place (count >= target, or weight >= target), with what lies in
  // front of it added to `before`.
  template <bool kByCount>
  __device__ int FindBin(uint64_t target, SamplePrefix& before) {
    constexpr int kPerThread = kSampleBins / kSampleThreads;
    const int first = static_cast<int>(threadIdx.x) * kPerThread;
    uint64_t count = 0, weight = 0;
    for (int i = first; i < first + kPerThread; ++i) {
      count += shared_.count[i];
      weight += shared_.weight[i];
    }
    const uint64_t own_count = count, own_weight = weight;
    for (int step = 1; step < 32; step *= 2) {
      const uint64_t c = __shfl_up_sync(0xFFFFFFFFu, count, step);
      const uint64_t w = __shfl_up_sync(0xFFFFFFFFu, weight, step);
      if (static_cast<int>(threadIdx.x % 32) >= step) {
        count += c;
        weight += w;
      }
    }
    if (threadIdx.x % 32 == 31) {
      shared_.warp[threadIdx.x / 32] = count;
      shared_.warp_weight[threadIdx.x / 32] = weight;
    }
    __syncthreads();  // every warp's sums are there
    for (uint32_t w = 0; w < threadIdx.x / 32; ++w) {
      count += shared_.warp[w];
      weight += shared_.warp_weight[w];
    }
    count += before.count - own_count;
    weight += before.weight - own_weight;  // in front of this thread's bins, from here on
    const uint64_t reached = kByCount ? count : weight;
    if (reached < target && reached + (kByCount ? own_count : own_weight) >= target) {
      int bin = first;
      while ((kByCount ? count + shared_.count[bin] : weight + shared_.weight[bin]) < target) {
        count += shared_.count[bin];
        weight += shared_.weight[bin++];
      }
      shared_.found[0] = static_cast<uint64_t>(bin);
      shared_.found[1] = count;
      shared_.found[2] = weight;
    }
    __syncthreads();  // found before it is read
    before.count = shared_.found[1];
    before.weight = shared_.found[2];
    return static_cast<int>(shared_.found[0]);
  }

  // Smallest prefix of the order whose count (weight) reaches `target`, which the whole does.
  template <bool kByCount>
  __device__ SamplePrefix Find(uint64_t target) {
    SamplePrefix place{};
    FillBins([&](float logit, uint32_t) { return FirstBin(logit); });
    const int first = FindBin<kByCount>(target, place);
    // Keys of that bin, and a few more: which bin a logit is in is asked again below.
    uint32_t high = LogitKey(top_ - static_cast<float>(first - 1) / kBinsPerUnit);
    uint32_t low =
        first + 1 < kSampleBins ? LogitKey(top_ - static_cast<float>(first + 2) / kBinsPerUnit) : 1;
    if (first == 0 || high == 0) high = LogitKey(top_);
    if (low == 0) low = 1;
    uint32_t width;
    int bin;
    do {
      width = (high - low) / kSampleBins + 1;
      FillBins([&](float logit, uint32_t key) {
        if (key < low || key > high || FirstBin(logit) != first) return -1;
        return static_cast<int>((high - key) / width);
      });
      bin = FindBin<kByCount>(target, place);
      high -= static_cast<uint32_t>(bin) * width;
      if (high - low >= width) low = high - width + 1;
    } while (width > 1);
    const uint64_t each = shared_.weight[bin] / shared_.count[bin];
    const uint64_t ties =
        kByCount ? target - place.count : (target - place.weight + each - 1) / each;
    __syncthreads();  // bins have been read before somebody clears them
    place.key = high;
    place.ties = static_cast<uint32_t>(ties);
    place.count += ties;
    place.weight += ties * each;
    return place;
  }

  __device__ int32_t Draw() {
    uint64_t count = 0, weight = 0;
    ForEach<true>([&](float logit, int32_t) {
      if (LogitKey(logit) == 0) return;
      ++count;
      weight += Weight(logit);
    });
    count = Sum(count);
    weight = Sum(weight);
    if (row_.top_k > 0 && static_cast<uint64_t>(row_.top_k) < count) {
      const SamplePrefix kept = Find<true>(static_cast<uint64_t>(row_.top_k));
      count = kept.count;
      weight = kept.weight;
    }
    if (row_.top_p < 1.0f) {
      const double enough = static_cast<double>(row_.top_p) * static_cast<double>(weight);
      const SamplePrefix kept = Find<false>(max(uint64_t{1}, static_cast<uint64_t>(enough)));
      count = kept.count;
      weight = kept.weight;
    }
    if (row_.min_p > 0.0f) KeepMinP(count, weight);
    const double uniform = PhiloxUniform(row_.seed, static_cast<uint64_t>(row_.draw));
    const auto target = static_cast<uint64_t>(uniform * static_cast<double>(weight));
    const SamplePrefix chosen = Find<false>(min(target + 1, weight));
    return IdAt(chosen.key, chosen.ties);
  }

  // At least the likeliest stays.
  __device__ void KeepMinP(uint64_t& count, uint64_t& weight) {
    const double floor = log(static_cast<double>(row_.min_p)) * row_.temperature;
    uint64_t above = 0, their_weight = 0;
    ForEach<true>([&](float logit, int32_t) {
      if (LogitKey(logit) == 0) return;
      if (logit != top_ && static_cast<double>(logit) - static_cast<double>(top_) < floor) return;
      ++above;
      their_weight += Weight(logit);
    });
    above = Sum(above);
    their_weight = Sum(their_weight);
    if (above >= count) return;
    count = above;
    weight = their_weight;
  }

  // Number `nth` (from 1) by id of those with `key`. A warp has a run of ids.
  __device__ int32_t IdAt(uint32_t key, uint32_t nth) {
    const int run = (p_.vocab + kSampleWarps * 32 - 1) / (kSampleWarps * 32) * 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int end = min(p_.vocab, (warp + 1) * run);
    const auto matches = [&](int first) {
      const int id = first + lane;
      return __ballot_sync(0xFFFFFFFFu, id < end && LogitKey(Logit<true>(id)) == key);
    };
    uint32_t count = 0;
    for (int first = warp * run; first < end; first += 32)
      count += static_cast<uint32_t>(__popc(matches(first)));
    if (lane == 0) shared_.warp[warp] = count;
    __syncthreads();  // every warp's count is there
    uint64_t before = 0;
    for (int w = 0; w < warp; ++w) before += shared_.warp[w];
    if (before < nth && nth <= before + count) {
      uint32_t left = nth - static_cast<uint32_t>(before);
      for (int first = warp * run; first < end; first += 32) {
        uint32_t mask = matches(first);
        const auto here = static_cast<uint32_t>(__popc(mask));
        if (here < left) {
          left -= here;
          continue;
        }
        while (--left > 0) mask &= mask - 1;
        if (lane == 0)
          shared_.found[3] = static_cast<uint64_t>(first + __ffs(static_cast<int>(mask)) - 1);
        break;
      }
    }
    __syncthreads();  // the one warp has written
    return static_cast<int32_t>(shared_.found[3]);
  }

  // Of the model's own softmax, without penalty and temperature.
  __device__ void WriteLogprobs(int32_t id, int32_t* out) {
    uint64_t rank = Largest<false>(~uint64_t{0});
    const float top = static_cast<float>(logits_[IdOfRank(rank)]);
    uint64_t sum = 0;
    ForEach<false>([&](float logit, int32_t) {
      if (LogitKey(logit) != 0) sum += Weight(logit, top, 1.44269504f);
    });
    const double log_sum = log(static_cast<double>(Sum(sum)) / double{kWeightOne});
    const auto logprob = [&](int32_t of) {
      const float logit = static_cast<float>(logits_[of]);
      const double difference =
          logit == top ? 0.0 : static_cast<double>(logit) - static_cast<double>(top);
      return __float_as_int(static_cast<float>(difference - log_sum));
    };
    if (threadIdx.x == 0) out[1] = logprob(id);
    for (int i = 0; i < row_.num_logprobs; ++i) {
      int32_t* pair = out + kSampleHead + 2 * i;
      if (threadIdx.x == 0) {
        pair[0] = rank == 0 ? -1 : IdOfRank(rank);
        if (rank != 0) pair[1] = logprob(IdOfRank(rank));
      }
      if (rank == 0 || i + 1 == row_.num_logprobs) break;
      rank = Largest<false>(rank);
    }
  }

  const SampleLogitsParams& p_;
  SampleShared& shared_;
  uint32_t* seen_;
  const uint32_t index_;  // of the row
  const SampleRowParams row_;
  const RowLogit* logits_;
  float top_ = 0.0f;
  bool penalised_ = false;
};

}  // namespace fireq::sm90
