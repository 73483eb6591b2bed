// One plain struct an op: what a Backend computes, with dtype, shape and unit of every field.
//
// Tensors lie in the backend's memory unless said otherwise. "border" is BF16 where the model's
// Arithmetic has bf16_borders, else F32 (a float model). See docs/ARCHITECTURE.md for the letters.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fireq/formats/kv_page.h"
#include "fireq/formats/weight_i4.h"
#include "fireq/tensor/tensor.h"
#include "fireq/tensor/weight_i4.h"

namespace fireq {

// The input of a linear layer (or Q): float values, or codes with a scale a row: E4M3, or for
// linears of float weights INT8.
struct ActTensor {
  Tensor values;  // border, E4M3 or I8 [T, K]
  Tensor scale;   // F32 [T] (Q: [T, H]); defined exactly when values are codes
  Tensor sums;    // F32 [T, ceil(K/128)]: sum of codes a group; E4M3 inputs of linears only
};

constexpr bool IsCodes(DType dtype) { return dtype == DType::kE4M3 || dtype == DType::kI8; }

// A linear weight made ready by a backend (tile order, expansion, fusion). Opaque.
class PreparedLinear {
 public:
  virtual ~PreparedLinear() = default;
  virtual int64_t n() const = 0;  // output rows, all parts together
  virtual int64_t k() const = 0;  // input columns
  virtual bool quantized() const = 0;
};

// One matrix of a (fused) linear layer, on the host. Exactly one of `weight`, `i4` is set.
struct LinearPart {
  std::string name;  // for errors
  Tensor weight;     // F32, F16 or BF16 [N, K]
  WeightI4 i4;       // i4.codes defined when quantised
  Tensor bias;       // F32 [N] or undefined
};

struct LinearSpec {
  std::vector<LinearPart> parts;  // stacked along N: {q, k, v}, {gate, up} or one
  // {gate, up} of equal N whose rows a kernel may interleave for the SiLU epilogue. Row order of
  // the result is as if stacked, whatever the backend does inside.
  bool gate_up = false;
};

// A linear weight of random values (formats/random_weight.h). Rows are numbered through all parts.
enum class WeightForm : uint8_t { kInt4, kBf16 };
struct RandomLinearSpec {
  std::vector<int64_t> part_rows;  // as LinearSpec::parts; BF16: one
  int64_t k = 0;
  bool gate_up = false;
  WeightForm form = WeightForm::kInt4;
  uint64_t seed = 0;
};

// An id ~i below 0 stands for chosen[i], which the device has and the host may not know yet; an id
// below 0 in there (no choice, kSampleHead) embeds as 0.
struct EmbedArgs {
  Tensor ids;     // I32 [T], each in [-R, V)
  Tensor table;   // F32, F16 or BF16 [V, D]
  Tensor chosen;  // I32 [R] as SampleArgs::ids, or undefined: R is 0
  Tensor out;     // border [T, D]
};

// What may decide the order of a row's FP32 sums.
enum class Reduction : uint8_t {
  kFastest,  // anything: the number of tokens in the call, the other sequences' lengths
  // Only the row's own position and the weights' shapes: not how many tokens, of its own or of
  // other sequences, the call has. Equal inputs then give equal rows in any batch and chunk.
  kBatchInvariant,
};

// out = x / sqrt(mean(x^2) + eps) * weight in FP32, then rounded as `out.values` has it (token
// quantisation for codes).
struct RmsNormArgs {
  Tensor x;       // border [T, D]
  Tensor weight;  // F32 [D]
  float eps;
  Reduction reduction = Reduction::kFastest;
  ActTensor out;  // border or codes [T, D]
};

// Plain token quantisation of a border tensor.
struct QuantizeArgs {
  Tensor x;       // border [T, K]
  ActTensor out;  // codes [T, K]
};

enum class Epilogue : uint8_t {
  kNone,      // y = x w^T + bias
  kResidual,  // y = border(residual + border(x w^T + bias)); y may be residual
  kSiluMul,   // gate_up only: y = silu(gate) * up from the FP32 accumulators, [T, N/2]
};

// y[T, N] = epilogue(x[T, K] . w[N, K]^T); the products of the served arithmetic when w is INT4.
struct LinearArgs {
  ActTensor x;
  const PreparedLinear* w = nullptr;
  Epilogue epilogue = Epilogue::kNone;
  Products products = Products::kServed;
  Reduction reduction = Reduction::kFastest;
  Tensor residual;  // border [T, N] for kResidual
  Tensor y;  // border [T, N] (kSiluMul: [T, N/2]); logits [T, V]: F32, or Backend::LogitType()
  // Where Backend::FindsLargest(): I32 [T], which of a row's outputs is the largest (of equal ones
  // the first, -1: all are NaN); or undefined. With it y may be undefined.
  Tensor largest;
};

// How large the steps of a model become, at most.
struct StepLimits {
  int64_t max_tokens = 0;
  int64_t max_sequences = 0;
  int64_t max_context = 0;     // tokens of a sequence
  int64_t max_logit_rows = 0;  // of a call of `lm_head`
  const PreparedLinear* lm_head = nullptr;
  int64_t num_heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  KvGrid kv_grid = KvGrid::kFloat;
  int64_t memory_bytes = 0;  // of which pages are what the backend and the steps leave
};

// One layer's K and V pages.
struct KvLayer {
  Tensor pages;         // U8 [num_pages, layout.page_bytes()]
  KvPageLayout layout;  // where the codes, scales and zero points of a page lie
};

// Where the T tokens of a step belong. All I32, in the backend's memory.
struct BatchView {
  int64_t num_tokens = 0;     // T
  int64_t num_sequences = 0;  // S
  int64_t max_query_len = 0;  // longest of the S runs of tokens
  int64_t max_context = 0;    // longest context_len
  Tensor ids;                 // [T]
  Tensor chosen;              // [*] what ids below 0 stand for (EmbedArgs); may be undefined
  Tensor positions;           // [T] position of each token in its sequence
  // [S + 1] first token of each sequence in the step, cumulative. Tokens from its last value on are
  // nobody's: what attention says of them is not written.
  Tensor query_start;
  Tensor context_len;  // [S] tokens in the cache once the step has written its own
  Tensor page_table;   // [S, max_pages] page numbers; entries past the context are not read
  // The same on the host, for plans that are made there: new tokens and context of each sequence.
  std::vector<int32_t> query_lens, context_lens;
};

// Optional q/k norm, RoPE, CRS, centring of K, optional Hadamard; Q to E4M3 per token and head (or
// float), K and V to the cache's grid, written into their pages. FP32 inside.
struct RopeKvWriteArgs {
  Tensor qkv;  // border [T, (H + 2 Hk) Dh]
  const BatchView* batch = nullptr;
  Tensor rope_cos;  // F32 [L, Dh/2], L > every position
  Tensor rope_sin;  // F32 [L, Dh/2]
  Tensor q_norm;    // F32 [Dh] or undefined
  Tensor k_norm;    // F32 [Dh] or undefined
  float norm_eps = 0.0f;
  Tensor crs_q;      // F32 [Hk, Dh] or undefined
  Tensor crs_k;      // F32 [Hk, Dh] or undefined
  Tensor key_shift;  // F32 [Hk, Dh] or undefined: subtracted from K
  bool qk_hadamard = false;
  int64_t num_heads = 0;  // H
  ActTensor q;            // F32 or E4M3 [T, H Dh], scale [T, H]
  KvLayer kv;             // written
};

// Causal attention of the step's tokens over their sequences' cache; FP32 statistics.
struct AttentionArgs {
  ActTensor q;  // as RopeKvWrite left it
  KvLayer kv;
  const BatchView* batch = nullptr;
  int64_t num_heads = 0;
  bool e4m3_probs = false;
  Reduction reduction = Reduction::kFastest;
  Tensor out;  // border [T, H Dh]
};

// How a token is chosen from one row of logits: SamplingParams (ops/sampler.h) and the state of its
// sequence as flat bytes, equal on host and device.
struct SampleRowParams {
  uint64_t seed = 0;
  int64_t draw = 0;   // choices of the sequence so far
  int64_t top_k = 0;  // 0: all
  float temperature = 0.0f;
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  int32_t history_begin = 0;  // ids [begin, end) of SampleArgs::history
  int32_t history_end = 0;
  int32_t num_logprobs = -1;
  int32_t unused = 0;
  bool operator==(const SampleRowParams&) const = default;
};

// A row of SampleArgs::out is kSampleHead values, then max_logprobs pairs (id, logprob), likeliest
// first; log-probabilities are floats by their bits. Behind the last of V ids is id -1; what was
// not asked for is undefined.
inline constexpr int64_t kSampleHead = 2;  // id (-1: every logit is NaN), its logprob

// One token a row, as Sampler::Choose has it; a device's sums may part from it where a draw falls
// within rounding of the border of two tokens.
struct SampleArgs {
  Tensor logits;             // F32 or Backend::LogitType() [R, V]
  Tensor params;             // U8 [R, sizeof(SampleRowParams)]
  Tensor history;            // I32 [*] ids in [0, V); undefined if no row has any
  int64_t max_logprobs = 0;  // no row asks for more
  Tensor out;                // I32 [R, kSampleHead + 2 max_logprobs]
  Tensor ids;                // I32 [R]: the ids of `out` once more, or undefined
};

}  // namespace fireq
