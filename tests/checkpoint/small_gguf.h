// A small model as GGUF, as the converters of ggml-org/llama.cpp lay it out.
#pragma once

#include <string>
#include <vector>

#include "fireq/checkpoint/model_config.h"
#include "fireq/checkpoint/schema.h"
#include "tests/checkpoint/checkpoint_testing.h"
#include "tests/io/gguf_builder.h"

namespace fireq {

// Rows of each head from halves to interleaved pairs.
inline std::vector<float> Interleave(const std::vector<float>& rows, int64_t num_heads,
                                     int64_t head_dim) {
  const int64_t columns = static_cast<int64_t>(rows.size()) / (num_heads * head_dim);
  std::vector<float> out;
  for (int64_t h = 0; h < num_heads; ++h) {
    for (int64_t r = 0; r < head_dim; ++r) {
      const int64_t from = h * head_dim + (r % 2) * (head_dim / 2) + r / 2;
      out.insert(out.end(), rows.begin() + from * columns, rows.begin() + (from + 1) * columns);
    }
  }
  return out;
}

inline void AddSmallTensor(GgufBuilder& builder, const std::string& name,
                           const std::vector<float>& values, const Shape& shape, DType dtype) {
  const Tensor tensor = Encode(values, shape, dtype);
  const uint32_t type = dtype == DType::kF32 ? 0 : dtype == DType::kF16 ? 1 : 30;
  builder.Add(
      name, std::vector<uint64_t>(shape.rbegin(), shape.rend()), type,
      std::string(static_cast<char*>(tensor.data()), static_cast<size_t>(tensor.size_bytes())));
}

inline GgufBuilder SmallGguf(const ModelConfig& c, const SmallWeights& weights, DType dtype) {
  GgufBuilder b;
  const auto u32 = [&](const char* key, int64_t value) {
    b.U32(StrCat(c.family, ".", key), static_cast<uint32_t>(value));
  };
  b.String("general.architecture", c.family);
  u32("block_count", c.num_layers);
  u32("embedding_length", c.hidden);
  u32("feed_forward_length", c.ffn);
  u32("attention.head_count", c.num_heads);
  u32("attention.head_count_kv", c.num_kv_heads);
  u32("attention.key_length", c.head_dim);
  u32("attention.value_length", c.head_dim);
  u32("context_length", c.max_context);
  b.F32(c.family + ".attention.layer_norm_rms_epsilon", c.rms_eps);
  b.F32(c.family + ".rope.freq_base", static_cast<float>(c.rope.theta));
  b.U32("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(c.bos_id));
  b.U32("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(c.eos_ids[0]));
  const auto add = [&](const std::string& theirs, const std::string& ours, const Shape& shape) {
    AddSmallTensor(b, theirs, weights.at(ours), shape, dtype);
  };
  add("token_embd.weight", kEmbeddingName, {c.vocab_size, c.hidden});
  add("output_norm.weight", kFinalNormName, {c.hidden});
  if (!c.tied_embeddings) add("output.weight", kLmHeadName, {c.vocab_size, c.hidden});
  for (int64_t n = 0; n < c.num_layers; ++n) {
    const std::string blk = StrCat("blk.", n, ".");
    add(blk + "attn_norm.weight", LayerTensorName(n, kInputNorm), {c.hidden});
    add(blk + "ffn_norm.weight", LayerTensorName(n, kPostNorm), {c.hidden});
    if (c.qk_norm) {
      add(blk + "attn_q_norm.weight", LayerTensorName(n, kQNorm), {c.head_dim});
      add(blk + "attn_k_norm.weight", LayerTensorName(n, kKNorm), {c.head_dim});
    }
    constexpr const char* kNames[] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                      "ffn_gate", "ffn_up", "ffn_down"};
    for (size_t i = 0; i < kLinears.size(); ++i) {
      const Linear linear = kLinears[i];
      const int64_t interleaved = c.family != "llama"    ? 0
                                  : linear == Linear::kQ ? c.num_heads
                                  : linear == Linear::kK ? c.num_kv_heads
                                                         : 0;
      const auto add_rows = [&](const char* kind, const Shape& shape) {
        std::vector<float> values = weights.at(LinearName(n, linear) + kind);
        if (interleaved > 0) values = Interleave(values, interleaved, c.head_dim);
        AddSmallTensor(b, blk + kNames[i] + kind, values, shape, dtype);
      };
      add_rows(".weight", LinearShape(c, linear));
      if (HasBias(c, linear)) add_rows(".bias", {LinearShape(c, linear)[0]});
    }
  }
  return b;
}

}  // namespace fireq
