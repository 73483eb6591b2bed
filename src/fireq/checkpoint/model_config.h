// What a model is: its dimensions and the few switches that tell Llama-like families apart.
//
// Made by checkpoint/ from config.json or GGUF metadata, read by everything above. Letters used
// project-wide: T tokens in a step, S sequences, L context, D hidden, F ffn, H query heads, Hk KV
// heads, Dh head dim, V vocabulary, G group of 128.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fireq {

enum class RopeScaling : uint8_t { kNone, kLlama3 };

struct RopeConfig {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::kNone;
  // llama3 scaling only.
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_context = 8192;  // tokens
};

struct ModelConfig {
  std::string family;        // "llama", "mistral", "qwen2", "qwen3": config.json's model_type
  std::string architecture;  // "LlamaForCausalLM": echoed into checkpoints

  int64_t num_layers = 0;
  int64_t hidden = 0;        // D
  int64_t ffn = 0;           // F
  int64_t num_heads = 0;     // H
  int64_t num_kv_heads = 0;  // Hk, divides H
  int64_t head_dim = 0;      // Dh, a multiple of 8; RoPE turns all of it
  int64_t vocab_size = 0;    // V
  int64_t max_context = 0;   // tokens, as the model states it

  float rms_eps = 1e-5f;
  RopeConfig rope;
  bool tied_embeddings = false;  // lm_head is the embedding table
  bool qkv_bias = false;         // q_proj, k_proj, v_proj have a bias
  bool o_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;  // RMSNorm over each head of Q and K before RoPE (Qwen3)

  int64_t bos_id = -1;           // -1: none
  std::vector<int64_t> eos_ids;  // any of these ends a generation

  int64_t q_rows() const { return num_heads * head_dim; }
  int64_t kv_rows() const { return num_kv_heads * head_dim; }
  int64_t qkv_rows() const { return q_rows() + 2 * kv_rows(); }
};

}  // namespace fireq
