#include "fireq/formats/kv_page.h"

#include <cmath>

namespace fireq {

KvPageHost::KvPageHost(KvPageLayout layout) : layout_(layout) {
  FIREQ_CHECK(layout.head_dim > 0 && layout.head_dim % 2 == 0, kInvalidArgument,
              "KV page: head_dim ", layout.head_dim, " is not positive and even");
  FIREQ_CHECK(layout.kv_heads > 0, kInvalidArgument, "KV page: kv_heads ", layout.kv_heads,
              " is not positive");
}

KvScale QuantizeKvVector(KvGrid grid, const float* x, int n, uint8_t* codes) {
  float lo = 0.0f;
  float hi = 0.0f;
  float extreme = 0.0f;
  bool has_nan = false;
  for (int i = 0; i < n; ++i) {
    has_nan |= std::isnan(x[i]);
    lo = x[i] < lo ? x[i] : lo;
    hi = x[i] > hi ? x[i] : hi;
    if (std::abs(x[i]) > std::abs(extreme)) extreme = x[i];
  }
  if (has_nan) lo = hi = extreme = std::nanf("");
  KvScale s{};
  switch (grid) {
    case KvGrid::kAsymmetric:
      s = AsymmetricKvScale(lo, hi);
      break;
    case KvGrid::kSymmetric:
      s = SymmetricKvScale(std::abs(extreme));
      break;
    case KvGrid::kSigned:
      s = SignedKvScale(extreme);
      break;
    case KvGrid::kFloat:
      Throw(ErrorCode::kInternal, "KV page: the float grid has no codes");
  }
  for (int i = 0; i < n; ++i) codes[i] = KvCode(x[i], s);
  return s;
}

void PackKRow(const uint8_t* codes, int n, uint8_t* packed) {
  for (int run = 0; run < n; run += kKRunValues) {
    const int half = (n - run < kKRunValues ? n - run : kKRunValues) / 2;
    for (int b = 0; b < half; ++b) {
      packed[run / 2 + b] = PackCodes(codes[run + b], codes[run + half + b]);
    }
  }
}

void UnpackKRow(const uint8_t* packed, int n, uint8_t* codes) {
  for (int run = 0; run < n; run += kKRunValues) {
    const int half = (n - run < kKRunValues ? n - run : kKRunValues) / 2;
    for (int b = 0; b < half; ++b) {
      codes[run + b] = packed[run / 2 + b] & 0xF;
      codes[run + half + b] = static_cast<uint8_t>(packed[run / 2 + b] >> 4);
    }
  }
}

namespace {
constexpr int kMaxStackDim = 512;

// Scratch for one vector of codes: the stack for every head dim that occurs.
struct CodeBuffer {
  explicit CodeBuffer(int n) {
    FIREQ_CHECK(n <= kMaxStackDim, kUnsupported, "KV page: head_dim ", n, " exceeds ",
                kMaxStackDim);
  }
  uint8_t codes[kMaxStackDim];
};

float Dequantize(uint8_t code, KvScale s) {
  return static_cast<float>(code - s.zero) * Bf16ToFloat(s.scale);
}
}  // namespace

void KvPageHost::StoreK(uint8_t* page, int head, int token, const float* x) const {
  uint8_t* block = page + layout_.head_offset(head);
  const int dim = layout_.head_dim;
  if (layout_.grid == KvGrid::kFloat) {
    std::memcpy(block + int64_t{4} * token * dim, x, sizeof(float) * dim);
    return;
  }
  CodeBuffer buffer(dim);
  const KvScale s = QuantizeKvVector(layout_.grid, x, dim, buffer.codes);
  PackKRow(buffer.codes, dim, block + int64_t{token} * (dim / 2));
  SetKvScale(block, layout_.k_scale_offset(), layout_.k_zero_offset(), token, s);
}

void KvPageHost::StoreV(uint8_t* page, int head, int token, const float* x) const {
  uint8_t* block = page + layout_.head_offset(head);
  const int dim = layout_.head_dim;
  if (layout_.grid == KvGrid::kFloat) {
    std::memcpy(block + layout_.v_offset() + int64_t{4} * token * dim, x, sizeof(float) * dim);
    return;
  }
  CodeBuffer buffer(dim);
  const KvScale s = QuantizeKvVector(layout_.grid, x, dim, buffer.codes);
  for (int d = 0; d < dim; ++d) SetCode(block, layout_.VCode(token, d), buffer.codes[d]);
  SetKvScale(block, layout_.v_scale_offset(), layout_.v_zero_offset(), token, s);
}

void KvPageHost::LoadK(const uint8_t* page, int head, int token, float* x) const {
  const uint8_t* block = page + layout_.head_offset(head);
  const int dim = layout_.head_dim;
  if (layout_.grid == KvGrid::kFloat) {
    std::memcpy(x, block + int64_t{4} * token * dim, sizeof(float) * dim);
    return;
  }
  const KvScale s = GetKvScale(block, layout_.k_scale_offset(), layout_.k_zero_offset(), token);
  for (int d = 0; d < dim; ++d) x[d] = Dequantize(GetCode(block, layout_.KCode(token, d)), s);
}

void KvPageHost::LoadV(const uint8_t* page, int head, int token, float* x) const {
  const uint8_t* block = page + layout_.head_offset(head);
  const int dim = layout_.head_dim;
  if (layout_.grid == KvGrid::kFloat) {
    std::memcpy(x, block + layout_.v_offset() + int64_t{4} * token * dim, sizeof(float) * dim);
    return;
  }
  const KvScale s = GetKvScale(block, layout_.v_scale_offset(), layout_.v_zero_offset(), token);
  for (int d = 0; d < dim; ++d) x[d] = Dequantize(GetCode(block, layout_.VCode(token, d)), s);
}

}  // namespace fireq
