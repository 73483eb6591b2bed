// A vector (one token of one head) belongs to neighbouring lanes; lane j of them holds the values d
// = P j .. + P - 1 and Dh/2 + P j .. + P - 1, both members of P RoPE pairs. A CTA has 16 tokens of
// one head after another (P = 8), where a page's group of 16 tokens has one writer (this CTA) and
// rotations are read once for some heads, or one token of some heads, where no sequence has more
// than 8 tokens in the step: then no two of its tokens are 8 apart and share a byte. Few such
// tokens are spread over four times as many lanes (P = 2).
#pragma once

#include <cstdint>
#include <functional>

#include "fireq/backends/sm90/ptx/cvt.cuh"
#include "fireq/backends/sm90/ptx/fence.cuh"
#include "fireq/backends/sm90/ptx/minmax.cuh"
#include "fireq/backends/sm90/rope_kv_write/launch.h"
#include "fireq/backends/sm90/rope_kv_write/rotated.cuh"
#include "fireq/formats/act_e4m3.h"
#include "fireq/formats/kv_i4.h"

namespace fireq::sm90 {

inline constexpr int kRopeShortRun = 8;  // tokens of a sequence: see above

enum class RopeRuns : uint8_t { kLong, kShort, kFewShort };

template <int kDim, RopeRuns kRuns>
class RopeKvWriter {
 public:
  static constexpr bool kShort = kRuns != RopeRuns::kLong;
  static constexpr int kPairs = kRuns == RopeRuns::kFewShort ? 2 : 8;     // of a lane
  static constexpr int kVectors = kRuns == RopeRuns::kFewShort ? 4 : 16;  // of a CTA
  static constexpr int kValues = 2 * kPairs;
  static constexpr int kLanes = kDim / kValues;  // of a vector
  static constexpr int kThreads = kLanes * kVectors;
  static constexpr int kCtasPerSm = (kShort ? 1 : 896) / kThreads;  // at least, for long runs
  static FIREQ_HD constexpr KvPageLayout Layout() { return {KvGrid::kAsymmetric, 1, kDim}; }

  static constexpr int kRotations = kShort ? 1 : 2 * kPairs / 4 * kThreads;  // float4

  // `codes` [kVectors][kDim] and `rotations` in shared memory; `thread` of kThreads.
  __device__ RopeKvWriter(const RopeKvWriteParams& p, uint8_t* codes, float4* rotations, int thread)
      : p_(p),
        codes_(codes),
        rotations_(rotations),
        lane_(thread % kLanes),
        vector_(thread / kLanes) {}

  __device__ void Run() {
    const int sequence = blockIdx.z;
    const int32_t first = p_.query_start[sequence];
    queries_ = p_.query_start[sequence + 1] - first;
    const int32_t start = p_.context_len[sequence] - queries_;  // position of query 0
    if constexpr (kShort) {
      RunVector(static_cast<int32_t>(blockIdx.x), first, start);
    } else {
      // Group of 16 positions number blockIdx.y from the one that holds query 0.
      group_query_ =
          (start / kVGroupTokens + static_cast<int32_t>(blockIdx.y)) * kVGroupTokens - start;
      if (queries_ > 0 && group_query_ < queries_) RunHeads(first, start);
    }
  }

 protected:
  __device__ __forceinline__ void RunVector(int32_t query, int32_t first, int32_t start) {
    head_ = static_cast<int>(blockIdx.y) * kVectors + vector_;
    active_ = query < queries_ && head_ < NumVectors();
    token_ = first + query;
    position_ = start + query;
    // What does not come from the kernel before this one is on its way while that one ends.
    if (active_) {
      LoadPage();
      if (head_ < FirstV()) {
        LoadRotation();
      } else if constexpr (kShort) {
        LoadNeighbours(Block(head_ - FirstV()));
      }
    }
    GridDependencyWait();
    if (!active_) return;
    Fetch(head_);
    Unpack();
    Dispatch();
  }

  // A group's tokens that are not in the step go along with the nearest that is, storing nothing.
  __device__ __forceinline__ void RunHeads(int32_t first, int32_t start) {
    const int32_t query = group_query_ + vector_;
    const int32_t nearest = max(0, min(query, queries_ - 1));
    active_ = query == nearest;
    token_ = first + nearest;
    position_ = start + nearest;
    head_ = static_cast<int>(blockIdx.x) * p_.heads_per_cta;
    const int end = min(head_ + p_.heads_per_cta, NumVectors());
    LoadPage();
    if (head_ < FirstV()) {
      LoadRotation();
      KeepRotation();
    }
    GridDependencyWait();
    Fetch(head_);
#pragma unroll 1
    for (; head_ < end; ++head_) {
      Unpack();
      if (head_ + 1 < end) Fetch(head_ + 1);
      Dispatch();
    }
  }

  __device__ __forceinline__ int FirstV() const { return p_.num_heads + p_.kv_heads; }
  __device__ __forceinline__ int NumVectors() const { return FirstV() + p_.kv_heads; }  // a token

  __device__ __forceinline__ void Dispatch() {
    // Lanes of one vector agree; shuffles stay within a vector.
    if (head_ < p_.num_heads) {
      Rotate(p_.q_norm, p_.crs_q, nullptr);
      WriteQuery();
    } else if (head_ < FirstV()) {
      Rotate(p_.k_norm, p_.crs_k, p_.key_shift);
      WriteKey(Block(head_ - p_.num_heads));
    } else {
      WriteValue(Block(head_ - FirstV()));
    }
  }

  // All lanes of the vector, whatever the other vectors of the warp do if they have other heads.
  __device__ __forceinline__ uint32_t Mask() const {
    if constexpr (!kShort) return 0xFFFFFFFFu;
    constexpr uint32_t kOnes = 0xFFFFFFFFu >> (32 - kLanes);
    return kOnes << (threadIdx.x % 32 / kLanes * kLanes);
  }
  template <class T, class Combine>
  __device__ __forceinline__ T Reduce(T value, Combine combine) const {
#pragma unroll
    for (int step = 1; step < kLanes; step *= 2)
      value = combine(value, __shfl_xor_sync(Mask(), value, step));
    return value;
  }

  // A lane's kPairs neighbours as one access.
  template <class T>
  struct alignas(sizeof(T) * kPairs) Pairs {
    uint32_t words[sizeof(T) * kPairs / 4];
  };

  // Place of value i (0 .. kValues - 1) in the vector.
  __device__ __forceinline__ int Dim(int i) const {
    return kPairs * lane_ + (i < kPairs ? i : kDim / 2 + i - kPairs);
  }

  __device__ __forceinline__ void LoadPage() {
    page_ = p_.page_table[int64_t{blockIdx.z} * p_.max_pages + position_ / kTokensPerPage];
  }

  __device__ __forceinline__ void Fetch(int head) {
    const bf16_t* from = p_.qkv + (int64_t{token_} * NumVectors() + head) * kDim;
#pragma unroll
    for (int half = 0; half < 2; ++half)
      fetched_[half] = *reinterpret_cast<const Pairs<bf16_t>*>(from + Dim(half * kPairs));
  }
  __device__ __forceinline__ void Unpack() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kPairs / 2; ++i) {
        x_[kPairs * half + 2 * i] = Bf16LowToFloat(fetched_[half].words[i]);
        x_[kPairs * half + 2 * i + 1] = Bf16HighToFloat(fetched_[half].words[i]);
      }
    }
  }

  static __device__ __forceinline__ void LoadFloats(const float* from, float (&to)[kPairs]) {
    if constexpr (kPairs == 2) {
      const float2 f = __ldg(reinterpret_cast<const float2*>(from));
      to[0] = f.x, to[1] = f.y;
    } else {
#pragma unroll
      for (int i = 0; i < kPairs; i += 4) {
        const float4 f = __ldg(reinterpret_cast<const float4*>(from + i));
        to[i] = f.x, to[i + 1] = f.y, to[i + 2] = f.z, to[i + 3] = f.w;
      }
    }
  }

  __device__ __forceinline__ void LoadRotation() {
    const int64_t row = int64_t{position_} * (kDim / 2) + kPairs * lane_;
    LoadFloats(p_.rope_cos + row, cosine_);
    LoadFloats(p_.rope_sin + row, sine_);
  }
  // A lane's own place in shared memory: it needs its registers between two heads.
  __device__ __forceinline__ void KeepRotation() const {
#pragma unroll
    for (int i = 0; i < kPairs; i += 4) {
      rotations_[i / 4 * kThreads + threadIdx.x] =
          make_float4(cosine_[i], cosine_[i + 1], cosine_[i + 2], cosine_[i + 3]);
      rotations_[(kPairs + i) / 4 * kThreads + threadIdx.x] =
          make_float4(sine_[i], sine_[i + 1], sine_[i + 2], sine_[i + 3]);
    }
  }
  __device__ __forceinline__ void RecallRotation() {
#pragma unroll
    for (int i = 0; i < kPairs; i += 4) {
      const float4 c = rotations_[i / 4 * kThreads + threadIdx.x];
      cosine_[i] = c.x, cosine_[i + 1] = c.y, cosine_[i + 2] = c.z, cosine_[i + 3] = c.w;
      const float4 s = rotations_[(kPairs + i) / 4 * kThreads + threadIdx.x];
      sine_[i] = s.x, sine_[i + 1] = s.y, sine_[i + 2] = s.z, sine_[i + 3] = s.w;
    }
  }

  // x = combine(x, other), value by value.
  template <class Combine>
  __device__ __forceinline__ void With(const float* others, Combine combine) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float other[kPairs];
      LoadFloats(others + Dim(half * kPairs), other);
#pragma unroll
      for (int i = 0; i < kPairs; ++i)
        x_[kPairs * half + i] = combine(x_[kPairs * half + i], other[i]);
    }
  }

  __device__ __forceinline__ int KvHead() const {
    return head_ < p_.num_heads ? head_ / (p_.num_heads / p_.kv_heads) : head_ - p_.num_heads;
  }

  __device__ __forceinline__ void Rotate(const float* norm, const float* crs, const float* shift) {
    if (norm != nullptr) {
      float squares = 0.0f;
#pragma unroll
      for (int i = 0; i < kValues; ++i) squares += x_[i] * x_[i];
      squares = Reduce(squares, [](float a, float b) { return a + b; });
      const float inverse = 1.0f / sqrtf(squares / kDim + p_.norm_eps);
#pragma unroll
      for (int i = 0; i < kValues; ++i) x_[i] *= inverse;
      With(norm, std::multiplies());
    }
    if constexpr (!kShort) RecallRotation();
    TurnPairs();
    if (crs != nullptr) With(crs + int64_t{KvHead()} * kDim, std::multiplies());
    if (shift != nullptr) With(shift + int64_t{KvHead()} * kDim, std::minus());
    if (p_.hadamard) Hadamard();
  }

  __device__ __forceinline__ void TurnPairs() {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const float a = x_[i];
      const float b = x_[i + kPairs];
      x_[i] = Turned(a, b, cosine_[i], -sine_[i]);
      x_[i + kPairs] = Turned(a, b, sine_[i], cosine_[i]);
    }
  }

  // Fast Walsh-Hadamard: the lowest bits of d and its top bit lie in the thread, the others in
  // lanes. Bits 0, 1, 2, the top one, 3 and so on, whoever has them: sums are the same bits in
  // every kernel.
  __device__ __forceinline__ void Hadamard() {
#pragma unroll
    for (int bit = 1; bit < kPairs; bit *= 2) ButterflyInThread(bit);
#pragma unroll
    for (int step = 1; step < 8 / kPairs; step *= 2) ButterflyOverLanes(step);
    ButterflyInThread(kPairs);
#pragma unroll
    for (int step = 8 / kPairs; step < kLanes; step *= 2) ButterflyOverLanes(step);
    constexpr float kScale = kDim == 128 ? 0.08838834764831845f : 0.125f;
#pragma unroll
    for (int i = 0; i < kValues; ++i) x_[i] *= kScale;
  }
  __device__ __forceinline__ void ButterflyInThread(int bit) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      if ((i & bit) != 0) continue;
      const float a = x_[i];
      const float b = x_[i + bit];
      x_[i] = a + b;
      x_[i + bit] = a - b;
    }
  }
  __device__ __forceinline__ void ButterflyOverLanes(int step) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      const float other = __shfl_xor_sync(Mask(), x_[i], step);
      x_[i] = (lane_ & step) != 0 ? other - x_[i] : x_[i] + other;
    }
  }

  // max |x| of the vector; a NaN wins.
  __device__ __forceinline__ float AbsMax() const {
    float top = 0.0f;
#pragma unroll
    for (int i = 0; i < kValues; ++i) top = MaxOrNan(top, fabsf(x_[i]));
    return Reduce(top, MaxOrNan);
  }

  // A byte a value, four a word in order, to the vector's place.
  __device__ __forceinline__ void StoreBytes(const uint32_t (&words)[kValues / 4],
                                             uint8_t* vector) const {
    if constexpr (kPairs == 2) {
      *reinterpret_cast<uint16_t*>(vector + Dim(0)) = static_cast<uint16_t>(words[0]);
      *reinterpret_cast<uint16_t*>(vector + Dim(2)) = static_cast<uint16_t>(words[0] >> 16);
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *reinterpret_cast<uint2*>(vector + Dim(half * kPairs)) =
            make_uint2(words[2 * half], words[2 * half + 1]);
      }
    }
  }

  __device__ __forceinline__ void WriteQuery() const {
    const TokenScale scale = MakeTokenScale(AbsMax());
    const int64_t row = int64_t{token_} * p_.num_heads + head_;
    uint32_t words[kValues / 4];
#pragma unroll
    for (int i = 0; i < kValues / 4; ++i) {
      const float* x = x_ + 4 * i;
      words[i] = FloatsToE4M3x4(x[0] * scale.inv_scale, x[1] * scale.inv_scale,
                                x[2] * scale.inv_scale, x[3] * scale.inv_scale);
    }
    if (!active_) return;
    StoreBytes(words, p_.q + row * kDim);
    if (lane_ == 0) p_.scale_q[row] = scale.scale;
  }

  // Scale, zero point and codes of the vector: four codes a word, in the order of the values.
  __device__ __forceinline__ KvScale Quantize(uint32_t (&words)[kValues / 4]) {
    const KvScale scale = MakeScale();
    if (!IsFinite(scale)) {
      Encode(words, [&](float x) { return KvCodeOfNoScale(x, scale); });
      return scale;
    }
    const KvCoder coder(scale);
    if (coder.factor() != 1.0f) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) x_[i] *= coder.factor();
    }
    Encode(words, coder);
    return scale;
  }
  template <class Coder>
  __device__ __forceinline__ void Encode(uint32_t (&words)[kValues / 4], const Coder& code) const {
#pragma unroll
    for (int i = 0; i < kValues / 4; ++i) {
      const float* x = x_ + 4 * i;
      words[i] = code(x[0]) | code(x[1]) << 8 | code(x[2]) << 16 | code(x[3]) << 24;
    }
  }
  __device__ __forceinline__ KvScale MakeScale() const {
    if (p_.grid == KvGrid::kAsymmetric) {
      float low = 0.0f;
      float high = 0.0f;
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        low = MinOrNan(low, x_[i]);
        high = MaxOrNan(high, x_[i]);
      }
      return AsymmetricKvScale(Reduce(low, MinOrNan), Reduce(high, MaxOrNan));
    }
    const float absmax = AbsMax();
    return p_.grid == KvGrid::kSymmetric ? SymmetricKvScale(absmax)
                                         : SignedKvScale(FirstExtreme(absmax));
  }

  // +-absmax with the sign of the first element that has this magnitude.
  __device__ __forceinline__ float FirstExtreme(float absmax) const {
    uint32_t first = 0xFFFFFFFFu;  // 2 d + sign
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      if (fabsf(x_[i]) == absmax)
        first = min(first, 2 * static_cast<uint32_t>(Dim(i)) + (__float_as_uint(x_[i]) >> 31));
    }
    first = Reduce(first, [](uint32_t a, uint32_t b) { return min(a, b); });
    return (first & 1) != 0 ? -absmax : absmax;
  }

  __device__ __forceinline__ uint8_t* Block(int kv_head) const {
    return p_.pages + (int64_t{page_} * p_.kv_heads + kv_head) * Layout().head_bytes();
  }
  __device__ __forceinline__ void WriteScale(uint8_t* block, int64_t scales, int64_t zeros,
                                             KvScale scale) const {
    if (lane_ != 0 || !active_) return;
    const int at = position_ % kTokensPerPage;
    *reinterpret_cast<bf16_t*>(block + scales + 2 * at) = scale.scale;
    block[zeros + at] = scale.zero;
  }

  // 32 values of d share 16 bytes: the low nibbles are of the first 16, the high ones of the
  // others, 16 / kPairs lanes further on. Two such lanes exchange, and each stores the bytes of one
  // half of d.
  __device__ __forceinline__ void WriteKey(uint8_t* block) {
    uint32_t words[kValues / 4];
    const KvScale scale = Quantize(words);
    PutKey(block, words, scale);
  }
  __device__ __forceinline__ void PutKey(uint8_t* block, const uint32_t (&words)[kValues / 4],
                                         KvScale scale) const {
    constexpr int kAway = 16 / kPairs;
    const bool upper = (lane_ & kAway) != 0;
    const int run = lane_ / (2 * kAway) + (upper ? kDim / 64 : 0);
    uint8_t* to = block + position_ % kTokensPerPage * (kDim / 2) + run * (kKRunValues / 2) +
                  kPairs * (lane_ % kAway);
    if constexpr (kPairs == 2) {
      const uint32_t first = words[0] & 0xFFFFu, second = words[0] >> 16;
      const uint32_t theirs = __shfl_xor_sync(Mask(), upper ? first : second, kAway);
      const uint32_t bytes = upper ? theirs | second << 4 : first | theirs << 4;
      if (active_) *reinterpret_cast<uint16_t*>(to) = static_cast<uint16_t>(bytes);
    } else {
      uint32_t bytes[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t theirs = __shfl_xor_sync(Mask(), upper ? words[i] : words[2 + i], kAway);
        bytes[i] = upper ? theirs | words[2 + i] << 4 : words[i] | theirs << 4;
      }
      if (active_) *reinterpret_cast<uint2*>(to) = make_uint2(bytes[0], bytes[1]);
    }
    WriteScale(block, Layout().k_scale_offset(), Layout().k_zero_offset(), scale);
  }

  __device__ __forceinline__ void WriteValue(uint8_t* block) {
    uint32_t words[kValues / 4];
    const KvScale scale = Quantize(words);
    WriteScale(block, Layout().v_scale_offset(), Layout().v_zero_offset(), scale);
    if constexpr (kShort) {
      ReplaceNibbles(block, words);
    } else {
      WriteGroup(block, words);
    }
  }

  // A token's codes of V lie 8 bytes apart, four in a sector: neighbouring lanes, neighbouring d.
  __device__ __forceinline__ int64_t VByte(int i) const {
    return Layout().VCode(position_ % kTokensPerPage, lane_ + kLanes * i).byte;
  }
  // The bytes whose other nibbles stay: of tokens 8 apart, and so of another step.
  __device__ __forceinline__ void LoadNeighbours(const uint8_t* block) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) neighbours_[i] = block[VByte(i)];
  }
  __device__ __forceinline__ void ReplaceNibbles(uint8_t* block,
                                                 const uint32_t (&words)[kValues / 4]) const {
    StoreBytes(words, codes_ + vector_ * kDim);
    __syncwarp(Mask());  // the vector's codes are there
    const int shift = Layout().VCode(position_ % kTokensPerPage, 0).shift;
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      const uint32_t code = codes_[vector_ * kDim + lane_ + kLanes * i];
      block[VByte(i)] = static_cast<uint8_t>((neighbours_[i] & (0xF0u >> shift)) | code << shift);
    }
  }
  // The CTA's 16 tokens, turned around through shared memory: thread d writes d's 8 bytes.
  __device__ __forceinline__ void WriteGroup(uint8_t* block, const uint32_t (&words)[kValues / 4]) {
    __syncthreads();  // the codes of the head before have been read
    StoreBytes(words, codes_ + vector_ * kDim);
    __syncthreads();
    uint32_t bytes[2] = {};
    uint32_t kept[2] = {};  // nibbles of tokens that are not in the step
#pragma unroll
    for (int t = 0; t < kVGroupTokens; ++t) {
      const int shift = 8 * (t % 4) + 4 * (t / 8);
      bytes[t % 8 / 4] |= static_cast<uint32_t>(codes_[t * kDim + threadIdx.x]) << shift;
      if (group_query_ + t < 0 || group_query_ + t >= queries_) kept[t % 8 / 4] |= 0xFu << shift;
    }
    const int group = position_ % kTokensPerPage / kVGroupTokens;
    uint2* to = reinterpret_cast<uint2*>(block + Layout().v_offset() +
                                         (group * kDim + threadIdx.x) * kVGroupBytes);
    if ((kept[0] | kept[1]) != 0) {
      const uint2 old = *to;
      bytes[0] = (bytes[0] & ~kept[0]) | (old.x & kept[0]);
      bytes[1] = (bytes[1] & ~kept[1]) | (old.y & kept[1]);
    }
    *to = make_uint2(bytes[0], bytes[1]);
  }

  const RopeKvWriteParams& p_;
  uint8_t* codes_;
  float4* rotations_;
  const int lane_;
  const int vector_;
  bool active_ = false;      // what is computed is stored
  int32_t queries_ = 0;      // of the sequence
  int32_t group_query_ = 0;  // number of the group's first token, below 0 in front of the run
  int head_ = 0;             // of H + 2 Hk
  int32_t token_ = 0;
  int32_t position_ = 0;
  int32_t page_ = 0;
  Pairs<bf16_t> fetched_[2];
  float x_[kValues];
  float cosine_[kPairs];
  float sine_[kPairs];
  uint32_t neighbours_[kShort ? kValues : 1];
};

template <int kDim, RopeRuns kRuns>
__global__ void __launch_bounds__(RopeKvWriter<kDim, kRuns>::kThreads,
                                  RopeKvWriter<kDim, kRuns>::kCtasPerSm)
    RopeKvWrite(const __grid_constant__ RopeKvWriteParams p) {
  using Writer = RopeKvWriter<kDim, kRuns>;
  __shared__ __align__(16) uint8_t codes[Writer::kVectors * kDim];
  __shared__ float4 rotations[Writer::kRotations];
  GridDependencyLaunch();
  Writer(p, codes, rotations, static_cast<int>(threadIdx.x)).Run();
}

}  // namespace fireq::sm90
