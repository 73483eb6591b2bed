// What the bytes of a quantised checkpoint mean: config.json's "quantization_config".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "fireq/formats/kv_i4.h"

namespace fireq {

// What the inputs of a block's linears are rounded to, per token.
enum class Activations : uint8_t {
  kFloat,
  kE4M3,  // where the linear is quantised
  kInt8,  // where it holds float values: a rival's (formats/act_int8.h), which the CPU measures
};

// Where a model's arithmetic rounds. All defaults: a float model, FP32 throughout. W4A8KV4 as
// served sets everything; ablations switch parts off (then that part is FP32).
struct Arithmetic {
  bool bf16_borders = false;  // what crosses a kernel's border is rounded to BF16
  Activations activations = Activations::kFloat;
  bool e4m3_query = false;     // Q into attention: E4M3 per token and head
  bool e4m3_probs = false;     // softmax probabilities into PV: E4M3
  KvGrid kv = KvGrid::kFloat;  // K and V in the cache

  bool operator==(const Arithmetic&) const = default;
};

// That of the GPU's fast kernels, and of what the default recipe makes.
inline constexpr Arithmetic kFastArithmetic = {.bf16_borders = true,
                                               .activations = Activations::kE4M3,
                                               .e4m3_query = true,
                                               .e4m3_probs = true,
                                               .kv = KvGrid::kAsymmetric};

// Version 1 of the stored form (docs/FORMATS.md). JSON, under config.json's "quantization_config":
//   {"quant_method":"fireq","format_version":1,"group_size":128,
//    "arithmetic":{"borders":"bf16"|"f32","activations":"e4m3"|"int8"|"float",
//                  "query":"e4m3"|"float","probs":"e4m3"|"float",
//                  "kv":"float"|"symmetric"|"signed"|"asymmetric"},
//    "crs":bool,"key_shift":bool (absent:
//    false),"qk_hadamard":bool,"excluded":["model.layers.0.self_attn.q_proj",...], "recipe":{...}}
struct QuantConfig {
  Arithmetic arithmetic;
  // Post-RoPE channel factors: tensors model.layers.N.self_attn.crs_k_factor and .crs_q_factor,
  // F32 [Hk, Dh]: K_c *= crs_k_factor, Q_c *= crs_q_factor of the query head's KV head.
  bool crs = false;
  // Post-RoPE centre of K's channels: tensor model.layers.N.self_attn.key_shift, F32 [Hk, Dh]:
  // K_c -= key_shift, after CRS. It moves all scores of a query alike, which softmax does not see.
  bool key_shift = false;
  // Orthonormal Walsh-Hadamard transform of each head of Q and K after RoPE (CRS, key_shift);
  // Dh must be a power of two.
  bool qk_hadamard = false;
  // Linears kept in BF16 ("model.layers.0.self_attn.q_proj"); q, k, v stand or fall together, and
  // so do gate and up, since each group is one fused GEMM with one activation operand.
  std::vector<std::string> excluded;
  // The recipe that made the checkpoint, as JSON text; informative only.
  std::string recipe_json = "{}";
};

// Throws kCorrupt / kUnsupported naming the JSON path.
QuantConfig ParseQuantConfig(const nlohmann::json& quantization_config);
nlohmann::json ToJson(const QuantConfig& config);

const char* Name(Activations activations);    // "e4m3"
const char* Name(KvGrid grid);                // "asymmetric"
KvGrid ParseKvGrid(const std::string& name);  // throws kInvalidArgument listing the names

}  // namespace fireq
