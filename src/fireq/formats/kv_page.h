// The page of the KV cache: one layer's K and V of 64 consecutive tokens, all KV heads. Defined
// here once for the CPU and the GPU; why it is so: docs/formats/kv_page.md.
//
// A page is kv_heads blocks, one a head, each contiguous (one bulk copy) and 16-byte sized for a
// head dim Dh that is a multiple of 8. Quantised grids (KvGrid other than kFloat), offsets in a
// head's block:
//
//   0           K codes   [64 tokens][Dh/2 bytes]         token-major
//   32 Dh       V codes   [4 groups of 16 tokens][Dh][8 bytes]   d-major: token-contiguous
//   64 Dh       K scales  bf16 [64]
//   64 Dh + 128 V scales  bf16 [64]
//   64 Dh + 256 K zeros   u8 [64]
//   64 Dh + 320 V zeros   u8 [64]
//
// so 64 + 2 + 1 bytes a vector of 128 and 8576 bytes a head. Nibbles, for `w & 0x0F0F0F0F` and
// `(w >> 4) & 0x0F0F0F0F` to give runs in natural order:
//
//   K: 16 bytes hold 32 values of d: byte b has d = 32 i + b low and d = 32 i + 16 + b high.
//      (Where Dh is no multiple of 32 the last run of w values has w/2 low, then w/2 high.)
//   V: 8 bytes hold 16 tokens of one d: byte b has token 16 i + b low and 16 i + 8 + b high.
//
// One writer: tokens t and t + 8 of a group of 16 share V's bytes, so within one step one writer
// (a CPU thread, a CUDA thread) owns all of a sequence's tokens in a group of 16 and writes by
// read, replace a nibble, write. Other groups, other heads and K never share a byte.
//
// kFloat (not served): per head F32 K [64][Dh], then F32 V [64][Dh].
//
// Bytes of tokens that were never written may hold anything (NaN scales too): readers select by
// length, they never multiply such a token by zero.
#pragma once

#include <cstdint>
#include <cstring>

#include "fireq/base/error.h"
#include "fireq/base/macros.h"
#include "fireq/formats/bf16.h"
#include "fireq/formats/int4.h"
#include "fireq/formats/kv_i4.h"

namespace fireq {

inline constexpr int kTokensPerPage = 64;
inline constexpr int kVGroupTokens = 16;  // tokens of V that lie together; one writer owns a group
inline constexpr int kVGroupBytes = kVGroupTokens / 2;  // of one d
inline constexpr int kKRunValues = 32;                  // values of d that 16 bytes of K hold

// Where one code lies: a byte, counted from the head's block, and the shift of its nibble.
struct NibblePlace {
  int32_t byte;
  int32_t shift;  // 0 or 4
};

struct KvPageLayout {
  KvGrid grid = KvGrid::kAsymmetric;
  int kv_heads = 0;
  int head_dim = 0;  // even; a multiple of 8 keeps every head's block 16-byte sized

  FIREQ_HD constexpr int64_t k_bytes() const {
    return grid == KvGrid::kFloat ? int64_t{4} * kTokensPerPage * head_dim
                                  : int64_t{kTokensPerPage / 2} * head_dim;
  }
  // From the start of a head's block.
  FIREQ_HD constexpr int64_t v_offset() const { return k_bytes(); }
  FIREQ_HD constexpr int64_t k_scale_offset() const { return 2 * k_bytes(); }
  FIREQ_HD constexpr int64_t v_scale_offset() const { return k_scale_offset() + 128; }
  FIREQ_HD constexpr int64_t k_zero_offset() const { return k_scale_offset() + 256; }
  FIREQ_HD constexpr int64_t v_zero_offset() const { return k_scale_offset() + 320; }

  FIREQ_HD constexpr int64_t head_bytes() const {
    return grid == KvGrid::kFloat ? 2 * k_bytes() : 2 * k_bytes() + 384;
  }
  FIREQ_HD constexpr int64_t page_bytes() const { return head_bytes() * kv_heads; }
  // From the start of the page.
  FIREQ_HD constexpr int64_t head_offset(int head) const { return head_bytes() * head; }

  // Quantised grids only; token is 0..63, counted within the page.
  FIREQ_HD constexpr NibblePlace KCode(int token, int d) const {
    const int run = d / kKRunValues;
    const int left = head_dim - run * kKRunValues;
    const int half = (left < kKRunValues ? left : kKRunValues) / 2;
    const int within = d % kKRunValues;
    return {token * (head_dim / 2) + run * (kKRunValues / 2) + within % half, within / half * 4};
  }
  FIREQ_HD constexpr NibblePlace VCode(int token, int d) const {
    const int within = token % kVGroupTokens;
    return {static_cast<int32_t>(v_offset()) +
                (token / kVGroupTokens * head_dim + d) * kVGroupBytes + within % kVGroupBytes,
            within / kVGroupBytes * 4};
  }
};

static_assert(KvPageLayout{KvGrid::kAsymmetric, 1, 128}.page_bytes() ==
              int64_t{kTokensPerPage} * 2 * 67);
static_assert(KvPageLayout{KvGrid::kAsymmetric, 8, 128}.head_bytes() % 16 == 0);
static_assert(KvPageLayout{KvGrid::kAsymmetric, 8, 64}.head_bytes() ==
              int64_t{kTokensPerPage} * 2 * 35);

FIREQ_HD constexpr uint8_t GetCode(const uint8_t* block, NibblePlace at) {
  return static_cast<uint8_t>((block[at.byte] >> at.shift) & 0xF);
}
// Read, replace, write: the caller is the one writer of the byte.
FIREQ_HD constexpr void SetCode(uint8_t* block, NibblePlace at, uint8_t code) {
  block[at.byte] =
      static_cast<uint8_t>((block[at.byte] & (0xF0 >> at.shift)) | ((code & 0xF) << at.shift));
}

// Scale and zero point of a vector of K or V, by the arrays' offsets in the head's block.
inline KvScale GetKvScale(const uint8_t* block, int64_t scale_offset, int64_t zero_offset,
                          int token) {
  KvScale s{};
  std::memcpy(&s.scale, block + scale_offset + int64_t{token} * 2, 2);
  s.zero = block[zero_offset + token];
  return s;
}
inline void SetKvScale(uint8_t* block, int64_t scale_offset, int64_t zero_offset, int token,
                       KvScale s) {
  std::memcpy(block + scale_offset + int64_t{token} * 2, &s.scale, 2);
  block[zero_offset + token] = s.zero;
}

// One token and one head, for the host. K and V at once is the CPU cache's write; x are FP32
// values (after RoPE and rotations). A NaN in x makes its own vector NaN and no other.
class KvPageHost {
 public:
  // head_dim even and positive, kv_heads positive; kInvalidArgument otherwise.
  explicit KvPageHost(KvPageLayout layout);

  const KvPageLayout& layout() const { return layout_; }

  // x[head_dim] into (head, token) of `page`, quantised by the layout's grid.
  void StoreK(uint8_t* page, int head, int token, const float* x) const;
  void StoreV(uint8_t* page, int head, int token, const float* x) const;
  // The values that attention sees, (q - z) * s in FP32, into x[head_dim].
  void LoadK(const uint8_t* page, int head, int token, float* x) const;
  void LoadV(const uint8_t* page, int head, int token, float* x) const;

 private:
  KvPageLayout layout_;
};

// Scale and zero point of x[n] on `grid` (not kFloat), and its codes (one a byte).
KvScale QuantizeKvVector(KvGrid grid, const float* x, int n, uint8_t* codes);

// n codes (one a byte) to the packed order of one K row ((n/2) bytes) and back; n even.
void PackKRow(const uint8_t* codes, int n, uint8_t* packed);
void UnpackKRow(const uint8_t* packed, int n, uint8_t* codes);

}  // namespace fireq
